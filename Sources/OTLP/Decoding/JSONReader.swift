/// A bounds-checked cursor over one JSON text (RFC 8259), pulling one token at a time; nothing is built.
///
/// The whole text is checked to be UTF-8 at the start. Nesting is limited to `maxDepth`. Numbers stay as written.
struct JSONReader {
    static let maxDepth = 64

    private let base: UnsafePointer<UInt8>
    private let end: Int
    private(set) var offset = 0
    private var depth = 0
    /// Unescaped strings go here.
    private let scan: TraceScan

    init(_ bytes: UnsafeRawBufferPointer, scan: TraceScan) throws(OTLPDecodingError) {
        base = scan.base.assumingMemoryBound(to: UInt8.self)
        end = bytes.count
        self.scan = scan
        if let bad = JSONReader.firstInvalidUTF8(bytes) {
            throw OTLPDecodingError(code: .invalidUTF8, offset: bad, cause: "text that is not UTF-8")
        }
    }

    func failure(_ code: OTLPDecodingError.Code, _ cause: StaticString) -> OTLPDecodingError {
        OTLPDecodingError(code: code, offset: offset, cause: cause)
    }

    /// The next byte that is not white space, without taking it; nil at the end.
    mutating func peek() -> UInt8? {
        while offset < end {
            switch base[offset] {
            case 0x20, 0x09, 0x0A, 0x0D: offset += 1
            default: return base[offset]
            }
        }
        return nil
    }

    private mutating func next() throws(OTLPDecodingError) -> UInt8 {
        guard let byte = peek() else { throw failure(.truncated, "the JSON text ends here") }
        return byte
    }

    private mutating func expect(_ byte: UInt8, _ cause: StaticString) throws(OTLPDecodingError) {
        guard try next() == byte else { throw failure(.malformed, cause) }
        offset += 1
    }

    mutating func finish() throws(OTLPDecodingError) {
        if peek() != nil { throw failure(.malformed, "something follows the JSON value") }
    }

    // MARK: Structure

    /// Calls `field` with each key of the object at the cursor; it must consume the value. `null` is an empty object.
    mutating func object(
        _ field: (inout JSONReader, ScannedBytes) throws(OTLPDecodingError) -> Void
    ) throws(OTLPDecodingError) {
        if try takeNull() { return }
        guard try next() == UInt8(ascii: "{") else { throw failure(.unexpectedType, "an object was expected") }
        offset += 1
        try enter()
        if try next() == UInt8(ascii: "}") {
            offset += 1
            depth -= 1
            return
        }
        while true {
            let key = try string()
            try expect(UInt8(ascii: ":"), "a colon was expected")
            try field(&self, key)
            if try more(UInt8(ascii: "}")) { continue }
            depth -= 1
            return
        }
    }

    /// Calls `element` at each element of the array at the cursor; it must consume it. `null` is an empty array.
    mutating func array(
        _ element: (inout JSONReader) throws(OTLPDecodingError) -> Void
    ) throws(OTLPDecodingError) {
        if try takeNull() { return }
        guard try next() == UInt8(ascii: "[") else { throw failure(.unexpectedType, "an array was expected") }
        offset += 1
        try enter()
        if try next() == UInt8(ascii: "]") {
            offset += 1
            depth -= 1
            return
        }
        while true {
            try element(&self)
            if try more(UInt8(ascii: "]")) { continue }
            depth -= 1
            return
        }
    }

    private mutating func enter() throws(OTLPDecodingError) {
        depth += 1
        if depth > JSONReader.maxDepth { throw failure(.tooDeep, "nested more than 64 deep") }
    }

    private mutating func more(_ closing: UInt8) throws(OTLPDecodingError) -> Bool {
        let byte = try next()
        offset += 1
        if byte == UInt8(ascii: ",") { return true }
        if byte == closing { return false }
        offset -= 1
        throw failure(.malformed, "a comma or a closing bracket was expected")
    }

    mutating func takeNull() throws(OTLPDecodingError) -> Bool {
        guard try next() == UInt8(ascii: "n") else { return false }
        try literal("null")
        return true
    }

    private mutating func literal(_ text: StaticString) throws(OTLPDecodingError) {
        let length = text.utf8CodeUnitCount
        guard end - offset >= length else { throw failure(.truncated, "a literal ends here") }
        for at in 0..<length where base[offset + at] != text.utf8Start[at] {
            throw failure(.malformed, "an unknown literal")
        }
        offset += length
    }

    /// Passes over any value.
    mutating func skip() throws(OTLPDecodingError) {
        switch try next() {
        case UInt8(ascii: "{"):
            try object { (reader, _) throws(OTLPDecodingError) in try reader.skip() }
        case UInt8(ascii: "["):
            try array { (reader) throws(OTLPDecodingError) in try reader.skip() }
        case UInt8(ascii: "\""): _ = try string()
        case UInt8(ascii: "t"): try literal("true")
        case UInt8(ascii: "f"): try literal("false")
        case UInt8(ascii: "n"): try literal("null")
        default: _ = try number()
        }
    }

    // MARK: Values

    mutating func bool() throws(OTLPDecodingError) -> Bool {
        switch try next() {
        case UInt8(ascii: "t"):
            try literal("true")
            return true
        case UInt8(ascii: "f"):
            try literal("false")
            return false
        default: throw failure(.unexpectedType, "true or false was expected")
        }
    }

    /// The characters of a number as they stand in the text.
    mutating func number() throws(OTLPDecodingError) -> Range<Int> {
        _ = try next()
        let start = offset
        if offset < end, base[offset] == UInt8(ascii: "-") { offset += 1 }
        let whole = digits()
        guard whole > 0 else { throw failure(.malformed, "a value was expected") }
        if whole > 1, base[offset - whole] == UInt8(ascii: "0") {
            throw failure(.malformed, "a number with a leading zero")
        }
        if offset < end, base[offset] == UInt8(ascii: ".") {
            offset += 1
            guard digits() > 0 else { throw failure(.malformed, "a digit was expected") }
        }
        if offset < end, base[offset] | 0x20 == UInt8(ascii: "e") {
            offset += 1
            if offset < end, base[offset] == UInt8(ascii: "+") || base[offset] == UInt8(ascii: "-") { offset += 1 }
            guard digits() > 0 else { throw failure(.malformed, "a digit was expected") }
        }
        return start..<offset
    }

    private mutating func digits() -> Int {
        let start = offset
        while offset < end, base[offset] &- 48 < 10 { offset += 1 }
        return offset - start
    }

    /// A 64-bit integer, as a number or as a string of one (protobuf's JSON mapping writes the latter).
    mutating func integer() throws(OTLPDecodingError) -> (magnitude: UInt64, negative: Bool) {
        let start = offset
        let isString = try next() == UInt8(ascii: "\"")
        if isString { offset += 1 }
        let range: Range<Int>
        if isString, offset < end, base[offset] &- 48 >= 10, base[offset] != UInt8(ascii: "-") {
            throw failure(.unexpectedType, "an integer was expected")
        } else {
            range = try number()
        }
        if isString {
            guard offset < end, base[offset] == UInt8(ascii: "\"") else {
                throw failure(.unexpectedType, "an integer was expected")
            }
            offset += 1
        }
        guard let value = JSONReader.exactInteger(base, range) else {
            throw OTLPDecodingError(code: .unexpectedType, offset: start, cause: "a 64-bit integer was expected")
        }
        return value
    }

    /// Also reads `1.5e3`, which is the integer 1500; nil for fractions and for what does not fit.
    private static func exactInteger(
        _ base: UnsafePointer<UInt8>, _ range: Range<Int>
    ) -> (magnitude: UInt64, negative: Bool)? {
        var value: UInt64 = 0
        var at = range.lowerBound
        let negative = base[at] == UInt8(ascii: "-")
        if negative { at += 1 }
        var scale = 0
        var fraction = false
        var pendingZeros = 0
        while at < range.upperBound {
            let byte = base[at]
            if byte == UInt8(ascii: ".") {
                fraction = true
            } else if byte | 0x20 == UInt8(ascii: "e") {
                break
            } else {
                // Zeros are held back: trailing ones after the point must not overflow anything.
                if fraction { scale -= 1 }
                if byte == 48 && (fraction || value == 0) {
                    pendingZeros += 1
                } else {
                    for _ in 0..<min(pendingZeros, 20) where value != 0 {
                        let (next, overflow) = value.multipliedReportingOverflow(by: 10)
                        if overflow { return nil }
                        value = next
                    }
                    pendingZeros = 0
                    let (tens, overflow) = value.multipliedReportingOverflow(by: 10)
                    let (next, overflow2) = tens.addingReportingOverflow(UInt64(byte &- 48))
                    if overflow || overflow2 { return nil }
                    value = next
                }
            }
            at += 1
        }
        if value != 0 { scale += pendingZeros }
        if at < range.upperBound {
            at += 1
            let down = base[at] == UInt8(ascii: "-")
            if down || base[at] == UInt8(ascii: "+") { at += 1 }
            var exponent = 0
            while at < range.upperBound {
                exponent = min(exponent * 10 + Int(base[at] &- 48), 1_000_000)
                at += 1
            }
            scale += down ? -exponent : exponent
        }
        if value == 0 { return (0, false) }
        if scale < 0 {
            guard scale > -20 else { return nil }
            for _ in 0..<(-scale) {
                guard value % 10 == 0 else { return nil }
                value /= 10
            }
        } else {
            guard scale < 20 else { return nil }
            for _ in 0..<scale {
                let (next, overflow) = value.multipliedReportingOverflow(by: 10)
                if overflow { return nil }
                value = next
            }
        }
        return (value, negative)
    }

    /// A string: a range of the text itself when it has no escapes, else unescaped into the scan's arena.
    mutating func string() throws(OTLPDecodingError) -> ScannedBytes {
        guard try next() == UInt8(ascii: "\"") else { throw failure(.unexpectedType, "a string was expected") }
        offset += 1
        let start = offset
        while offset < end {
            let byte = base[offset]
            if byte == UInt8(ascii: "\"") {
                offset += 1
                return ScannedBytes(start: UInt32(start), length: UInt32(offset - 1 - start), inArena: false)
            }
            if byte == UInt8(ascii: "\\") { return try escapedString(from: start) }
            if byte < 0x20 { throw failure(.malformed, "a control character in a string") }
            offset += 1
        }
        throw failure(.truncated, "a string ends here")
    }

    private mutating func escapedString(from start: Int) throws(OTLPDecodingError) -> ScannedBytes {
        let first = scan.arenaCount
        for at in start..<offset { scan.appendToArena(base[at]) }
        while offset < end {
            let byte = base[offset]
            offset += 1
            switch byte {
            case UInt8(ascii: "\""): return scan.arenaRange(from: first)
            case UInt8(ascii: "\\"): try escape()
            case 0..<0x20:
                offset -= 1
                throw failure(.malformed, "a control character in a string")
            default: scan.appendToArena(byte)
            }
        }
        throw failure(.truncated, "a string ends here")
    }

    private mutating func escape() throws(OTLPDecodingError) {
        guard offset < end else { throw failure(.truncated, "an escape ends here") }
        let byte = base[offset]
        offset += 1
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): scan.appendToArena(byte)
        case UInt8(ascii: "b"): scan.appendToArena(0x08)
        case UInt8(ascii: "f"): scan.appendToArena(0x0C)
        case UInt8(ascii: "n"): scan.appendToArena(0x0A)
        case UInt8(ascii: "r"): scan.appendToArena(0x0D)
        case UInt8(ascii: "t"): scan.appendToArena(0x09)
        case UInt8(ascii: "u"):
            var scalar = try fourHexDigits()
            if scalar & 0xFC00 == 0xD800 {
                guard end - offset >= 2, base[offset] == UInt8(ascii: "\\"), base[offset + 1] == UInt8(ascii: "u")
                else {
                    throw failure(.malformed, "half a surrogate pair")
                }
                offset += 2
                let low = try fourHexDigits()
                guard low & 0xFC00 == 0xDC00 else { throw failure(.malformed, "half a surrogate pair") }
                scalar = 0x10000 + (scalar & 0x3FF) << 10 + (low & 0x3FF)
            } else if scalar & 0xFC00 == 0xDC00 {
                throw failure(.malformed, "half a surrogate pair")
            }
            guard let unicode = Unicode.Scalar(scalar) else { throw failure(.malformed, "not a character") }
            for unit in UTF8.encode(unicode).unsafelyUnwrapped { scan.appendToArena(unit) }
        default:
            offset -= 1
            throw failure(.malformed, "an unknown escape")
        }
    }

    private mutating func fourHexDigits() throws(OTLPDecodingError) -> UInt32 {
        guard end - offset >= 4 else { throw failure(.truncated, "an escape ends here") }
        var value: UInt32 = 0
        for _ in 0..<4 {
            guard let digit = JSONReader.hexDigit(base[offset]) else {
                throw failure(.malformed, "a hex digit was expected")
            }
            value = value << 4 | UInt32(digit)
            offset += 1
        }
        return value
    }

    static func hexDigit(_ byte: UInt8) -> UInt8? {
        switch byte {
        case 48...57: byte - 48
        case 97...102: byte - 87
        case 65...70: byte - 55
        default: nil
        }
    }

    /// Offset of the first byte that is not well-formed UTF-8 (RFC 3629: no surrogates, nothing overlong).
    static func firstInvalidUTF8(_ bytes: UnsafeRawBufferPointer) -> Int? {
        guard let base = bytes.baseAddress else { return nil }
        let count = bytes.count
        var at = 0
        func byte(_ index: Int) -> UInt8 { index < count ? base.load(fromByteOffset: index, as: UInt8.self) : 0 }
        while at < count {
            if at + 8 <= count, base.loadUnaligned(fromByteOffset: at, as: UInt64.self) & 0x8080_8080_8080_8080 == 0 {
                at += 8
                continue
            }
            let first = byte(at)
            if first < 0x80 {
                at += 1
                continue
            }
            let second = byte(at + 1)
            let length: Int
            switch first {
            case 0xC2...0xDF: length = second & 0xC0 == 0x80 ? 2 : 0
            case 0xE0: length = (0xA0...0xBF).contains(second) ? 3 : 0
            case 0xED: length = (0x80...0x9F).contains(second) ? 3 : 0
            case 0xE1...0xEF: length = second & 0xC0 == 0x80 ? 3 : 0
            case 0xF0: length = (0x90...0xBF).contains(second) ? 4 : 0
            case 0xF4: length = (0x80...0x8F).contains(second) ? 4 : 0
            case 0xF1...0xF3: length = second & 0xC0 == 0x80 ? 4 : 0
            default: length = 0
            }
            if length == 0 { return at }
            for index in 2..<max(length, 2) where byte(at + index) & 0xC0 != 0x80 { return at }
            at += length
        }
        return nil
    }
}
