/// Turns a finished protobuf request into OTLP/JSON: protobuf's JSON mapping, but for ids in lower-case hex and enums as
/// numbers. https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding
public struct JSONTranscoder {
    /// Protobuf's own limit.
    public static let maxDepth = 100

    private var output: [UInt8] = []

    /// - Throws: when the bytes are no protobuf, or are nested more than `maxDepth` messages deep.
    public static func json(_ body: UnsafeRawBufferPointer, _ request: OTLPRequest) throws(OTLPDecodingError) -> [UInt8]
    {
        var transcoder = JSONTranscoder()
        transcoder.output.reserveCapacity(body.count * 3)
        let schema: JSONSchema =
            switch request {
            case .traces: .traceRequest
            case .metrics: .metricsRequest
            case .logs: .logsRequest
            }
        try transcoder.message(ProtobufReader(body), schema, depth: 1)
        return transcoder.output
    }

    private mutating func message(_ message: ProtobufReader, _ schema: JSONSchema, depth: Int) throws(OTLPDecodingError)
    {
        guard depth <= Self.maxDepth else { throw message.failure(.tooDeep, "messages nested too deeply") }
        byte("{")
        var written: UInt64 = 0
        var reader = message
        while !reader.isAtEnd {
            let tag = try reader.tag()
            let number = tag >> 3
            if let field = schema.field(number), written >> number & 1 == 0, field.kind.takes(tag, field.isRepeated) {
                if written != 0 { byte(",") }
                written |= 1 << number
                name(field.name)
                try values(field, tag, reader, depth: depth)
            }
            try reader.skip(tag)
        }
        byte("}")
    }

    /// All values of a field from here on: they need not stand together. Of a field that occurs once, the last.
    private mutating func values(
        _ field: JSONSchema.Field, _ first: UInt64, _ from: ProtobufReader, depth: Int
    ) throws(OTLPDecodingError) {
        var reader = from
        var tag = first
        var last = from
        if field.isRepeated { byte("[") }
        while true {
            if tag >> 3 == first >> 3, field.kind.takes(tag, field.isRepeated) {
                last = reader
                let isPacked = tag & 7 == 2 && field.kind.wireType != 2
                if isPacked, Self.isEmpty(reader) {
                    try reader.skip(tag)
                } else if field.isRepeated {
                    if output.last != UInt8(ascii: "[") { byte(",") }
                    if isPacked {
                        try packed(field.kind, try reader.message(), depth: depth)
                    } else {
                        try value(field.kind, &reader, depth: depth)
                    }
                } else {
                    try reader.skip(tag)
                }
            } else {
                try reader.skip(tag)
            }
            if reader.isAtEnd { break }
            tag = try reader.tag()
        }
        if field.isRepeated { byte("]") } else { try value(field.kind, &last, depth: depth) }
    }

    /// Whether the length-delimited field at the reader has no bytes.
    private static func isEmpty(_ reader: ProtobufReader) -> Bool {
        var reader = reader
        return (try? reader.bytes().isEmpty) ?? false
    }

    private mutating func packed(
        _ kind: JSONSchema.Kind, _ values: ProtobufReader, depth: Int
    ) throws(OTLPDecodingError) {
        var values = values
        var isFirst = true
        while !values.isAtEnd {
            if !isFirst { byte(",") }
            isFirst = false
            try value(kind, &values, depth: depth)
        }
    }

    private mutating func value(
        _ kind: JSONSchema.Kind, _ reader: inout ProtobufReader, depth: Int
    ) throws(OTLPDecodingError) {
        switch kind {
        case .string: string(try reader.bytes())
        case .hex: hex(try reader.bytes())
        case .base64: base64(try reader.bytes())
        case .bool: text(try reader.varint() == 0 ? "false" : "true")
        case .double: double(Double(bitPattern: try reader.fixed64()))
        case .unsigned32: text("\(UInt32(truncatingIfNeeded: try reader.varint()))")
        case .fixed32: text("\(try reader.fixed32())")
        case .signed32: text("\(Int32(truncatingIfNeeded: try reader.varint()))")
        case .zigzag32:
            let value = UInt32(truncatingIfNeeded: try reader.varint())
            text("\(Int32(bitPattern: value >> 1) ^ -Int32(value & 1))")
        case .unsigned64: quoted("\(try reader.varint())")
        case .signed64: quoted("\(Int64(bitPattern: try reader.varint()))")
        case .fixed64: quoted("\(try reader.fixed64())")
        case .sfixed64: quoted("\(Int64(bitPattern: try reader.fixed64()))")
        case .message(let schema): try message(try reader.message(), schema, depth: depth + 1)
        }
    }

    // MARK: JSON

    private mutating func byte(_ scalar: Unicode.Scalar) { output.append(UInt8(ascii: scalar)) }

    private mutating func text(_ text: String) { output.append(contentsOf: text.utf8) }

    private mutating func quoted(_ text: String) {
        byte("\"")
        self.text(text)
        byte("\"")
    }

    private mutating func name(_ name: StaticString) {
        byte("\"")
        name.withUTF8Buffer { output.append(contentsOf: $0) }
        byte("\"")
        byte(":")
    }

    private mutating func double(_ value: Double) {
        switch value {
        case _ where value.isNaN: quoted("NaN")
        case .infinity: quoted("Infinity")
        case -.infinity: quoted("-Infinity")
        default: text("\(value)")
        }
    }

    private static let hexDigits = Array("0123456789abcdef".utf8)

    private mutating func hex(_ bytes: UnsafeRawBufferPointer) {
        byte("\"")
        for value in bytes {
            output.append(Self.hexDigits[Int(value >> 4)])
            output.append(Self.hexDigits[Int(value & 15)])
        }
        byte("\"")
    }

    private static let base64Digits = Array(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)

    private mutating func base64(_ bytes: UnsafeRawBufferPointer) {
        byte("\"")
        for start in stride(from: 0, to: bytes.count, by: 3) {
            let group = bytes[start..<min(start + 3, bytes.count)]
            var bits: UInt32 = 0
            for index in 0..<3 { bits = bits << 8 | (index < group.count ? UInt32(group[start + index]) : 0) }
            for index in 0..<4 {
                let digit = Self.base64Digits[Int(bits >> UInt32(18 - 6 * index) & 63)]
                output.append(index <= group.count ? digit : UInt8(ascii: "="))
            }
        }
        byte("\"")
    }

    private mutating func string(_ bytes: UnsafeRawBufferPointer) {
        byte("\"")
        if bytes.allSatisfy({ $0 >= 0x20 && $0 < 0x80 && $0 != UInt8(ascii: "\"") && $0 != UInt8(ascii: "\\") }) {
            output.append(contentsOf: bytes)
        } else {
            // By way of String, which replaces what is not UTF-8.
            for unit in String(decoding: bytes, as: UTF8.self).utf8 { escaped(unit) }
        }
        byte("\"")
    }

    private mutating func escaped(_ unit: UInt8) {
        switch unit {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"):
            byte("\\")
            output.append(unit)
        case 0..<0x20:
            text("\\u00")
            output.append(Self.hexDigits[Int(unit >> 4)])
            output.append(Self.hexDigits[Int(unit & 15)])
        default: output.append(unit)
        }
    }
}

extension JSONSchema.Kind {
    /// As on the wire when it is not packed.
    var wireType: UInt64 {
        switch self {
        case .bool, .unsigned32, .signed32, .zigzag32, .unsigned64, .signed64: 0
        case .double, .fixed64, .sfixed64: 1
        case .fixed32: 5
        case .string, .hex, .base64, .message: 2
        }
    }

    /// Whether a value with this tag is of this kind; else it is an unknown field.
    func takes(_ tag: UInt64, _ isRepeated: Bool) -> Bool {
        tag & 7 == wireType || isRepeated && tag & 7 == 2
    }
}
