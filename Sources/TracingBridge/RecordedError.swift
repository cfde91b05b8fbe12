/// An error by OpenTelemetry's conventions for exceptions.
struct RecordedError {
    let type: String
    let message: String

    init(_ error: any Error) {
        type = String(reflecting: Swift.type(of: error))
        message = String(describing: error)
    }
}
