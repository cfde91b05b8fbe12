import OTLP

/// The outer messages of a request, which all signals have alike:
///
///     Export…ServiceRequest{1 Resource…{1 resource, 3 schema, 2 Scope…{1 scope, 2 item, 2 item, …}, 2 …}}
enum RequestBody {
    /// - Parameter groups: each scope with its encoded items.
    static func encode(resource: Resource, _ groups: [(scope: InstrumentationScope, items: [[UInt8]])]) -> [UInt8] {
        var writer = ProtobufWriter()
        writer.message(field: 1) { all in
            all.message(field: 1) { resource.encode(into: &$0) }
            if !resource.schemaURL.isEmpty { all.string(field: 3, resource.schemaURL) }
            for (scope, items) in groups {
                all.message(field: 2) { group in
                    group.message(field: 1) { scope.encode(into: &$0) }
                    for item in items { group.data(field: 2, item) }
                }
            }
        }
        return writer.bytes
    }
}
