import OTLP
import TestSupport
import Testing

@Suite("Counting and splitting export requests")
struct RequestPartTests {
    /// Every item with everything that stands around it.
    private static let check = """
        points = ("gauge", "sum", "histogram", "exponential_histogram", "summary")
        def items(message):
            for group in message.ListFields():
                for resource in group[1]:
                    scopes = resource.ListFields()
                    for descriptor, inner in scopes:
                        if not descriptor.name.startswith("scope_"): continue
                        for scope in inner:
                            for d, records in scope.ListFields():
                                if d.name not in ("spans", "metrics", "log_records"): continue
                                around = (resource.resource.SerializeToString(), resource.schema_url,
                                          scope.scope.SerializeToString(), scope.schema_url)
                                for record in records:
                                    if d.name != "metrics":
                                        yield around, record.SerializeToString(deterministic=True)
                                        continue
                                    kind = record.WhichOneof("data")
                                    if not kind: continue
                                    bare = type(record)()
                                    bare.CopyFrom(record)
                                    del getattr(bare, kind).data_points[:]
                                    for point in getattr(record, kind).data_points:
                                        yield around, bare.SerializeToString(deterministic=True), point.SerializeToString(deterministic=True)
        for cls, (count, body, *parts) in messages:
            whole = list(items(cls.FromString(body)))
            assert int(count) == len(whole), (count, len(whole))
            assert [item for part in parts for item in items(cls.FromString(part))] == whole
            # No empty envelopes.
            for part in parts:
                assert part == b"" or list(items(cls.FromString(part)))
        print(len(messages))
        """

    @Test(
        "the parts of a request say together what it said, whatever the signal, and hold no empty envelopes (case 18)")
    func parts() throws {
        var checked: [(request: OTLPRequest, parts: [[UInt8]])] = []
        for (request, body) in try OfficialMessages.make() {
            let (count, parts) = try body.withUnsafeBytes { bytes in
                let count = try request.itemCount(bytes)
                // Halves, and all that there is one by one.
                let cuts = count < 12 ? Array(0...max(1, count)) : [0, count / 2, count]
                return (count, try zip(cuts, cuts.dropFirst()).map { try request.part(bytes, items: $0..<$1) })
            }
            checked.append((request, [Array("\(count)".utf8), body] + parts))
        }
        #expect(try OfficialMessages.check(Self.check, checked) == "\(checked.count)\n")
    }
}
