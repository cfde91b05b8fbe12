/// What an endpoint's answer says beyond its status. `Export…ServiceResponse`: 1 partial_success{1 rejected_…, 2
/// error_message}, or the same in JSON; the three signals differ only in the name of the count.
public struct PartialSuccess: Equatable, Sendable {
    /// Items that were refused for good.
    public var rejected: Int64 = 0
    public var message = ""

    /// What is neither protobuf nor JSON, or empty, is a full success, whatever the content type says.
    public init(response body: [UInt8]) {
        let start = body.first { $0 != 0x20 && $0 != 0x09 && $0 != 0x0A && $0 != 0x0D }
        var read = Self()
        do throws(OTLPDecodingError) {
            // A brace would begin a group in field 15, which no response in protobuf has.
            if start == UInt8(ascii: "{") {
                try read.readJSON(body)
            } else {
                try read.readProtobuf(body)
            }
            self = read
        } catch {
            // Garbage behind a success.
            self = Self()
        }
    }

    private init() {}

    private mutating func readProtobuf(_ body: [UInt8]) throws(OTLPDecodingError) {
        // Keeps the bytes in place while they are read.
        let bytes = body.span.bytes
        try bytes.withUnsafeBytes { (bytes) throws(OTLPDecodingError) in
            var response = ProtobufReader(bytes)
            while !response.isAtEnd {
                let tag = try response.tag()
                guard tag == 0x0A else {
                    try response.skip(tag)
                    continue
                }
                var partial = try response.message()
                while !partial.isAtEnd {
                    let tag = try partial.tag()
                    switch tag {
                    case 0x08: rejected = Int64(bitPattern: try partial.varint())
                    case 0x12: message = String(decoding: try partial.bytes(), as: UTF8.self)
                    default: try partial.skip(tag)
                    }
                }
            }
        }
    }

    private mutating func readJSON(_ body: [UInt8]) throws(OTLPDecodingError) {
        let scan = TraceScan()
        let bytes = body.span.bytes
        try bytes.withUnsafeBytes { (bytes) throws(OTLPDecodingError) in
            try scan.begin(bytes)
            var reader = try JSONReader(bytes, scan: scan)
            try reader.object { (reader, key) throws(OTLPDecodingError) in
                guard scan.matches(key, "partialSuccess") else { return try reader.skip() }
                try reader.object { (reader, key) throws(OTLPDecodingError) in
                    if ["rejectedSpans", "rejectedDataPoints", "rejectedLogRecords"].contains(where: {
                        scan.matches(key, $0)
                    }) {
                        let (magnitude, isNegative) = try reader.integer()
                        rejected = isNegative ? 0 : Int64(clamping: magnitude)
                    } else if scan.matches(key, "errorMessage") {
                        message = String(decoding: scan.bytes(try reader.string()), as: UTF8.self)
                    } else {
                        try reader.skip()
                    }
                }
            }
            try reader.finish()
        }
    }
}
