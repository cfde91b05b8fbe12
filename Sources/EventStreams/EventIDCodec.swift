import CCrypto

/// HMAC-SHA256 (RFC 2104) with the key's two inner states computed once.
struct KeyedHash: Sendable {
    private let inner: SHA256_CTX
    private let outer: SHA256_CTX

    /// `key` of at most 64 bytes, the block size of SHA-256.
    init(key: [UInt8]) {
        precondition(key.count <= 64, "a key of \(key.count) bytes would have to be hashed first")
        let padded = key + [UInt8](repeating: 0, count: 64 - key.count)
        inner = Self.state(of: padded.map { $0 ^ 0x36 })
        outer = Self.state(of: padded.map { $0 ^ 0x5c })
    }

    private static func state(of block: [UInt8]) -> SHA256_CTX {
        var context = SHA256_CTX()
        SHA256_Init(&context)
        block.withUnsafeBytes { _ = SHA256_Update(&context, $0.baseAddress, $0.count) }
        return context
    }

    /// Writes 32 bytes to `digest`.
    func authenticate(_ message: UnsafeRawBufferPointer, into digest: UnsafeMutablePointer<UInt8>) {
        var context = inner
        SHA256_Update(&context, message.baseAddress, message.count)
        SHA256_Final(digest, &context)
        context = outer
        SHA256_Update(&context, digest, 32)
        SHA256_Final(digest, &context)
    }

    func authenticate(_ message: [UInt8]) -> [UInt8] {
        [UInt8](unsafeUninitializedCapacity: 32) { digest, count in
            message.withUnsafeBytes { bytes in
                if let base = digest.baseAddress { authenticate(bytes, into: base) }
            }
            count = 32
        }
    }
}

/// Writes and reads one tenant's event ids.
///
/// An id is `ev_` and the base64url form (RFC 4648 section 5, 36 characters, no padding) of 27 bytes:
///
///     0      version, 1
///     1–4    epoch, big-endian
///     5–6    shard, big-endian, 0 for now
///     7–14   offset, big-endian
///     15–26  the first 12 bytes of HMAC-SHA256(tenant key, bytes 0–14)
///
/// The tenant key is HMAC-SHA256(the data directory's key, "isotherm event id v1" ‖ store id (8 bytes) ‖ tenant), so
/// an id says nothing under another tenant, another server, or a store that was created anew. 27 is a multiple of 3:
/// there is exactly one spelling of an id.
final class EventIDCodec: Sendable {
    static let prefix = Array("ev_".utf8)
    static let characterCount = 39
    private static let authenticatedCount = 15
    private static let rawCount = 27

    private let hash: KeyedHash

    init(key: [UInt8], storeID: UInt64, tenant: String) {
        var label = Array("isotherm event id v1".utf8)
        withUnsafeBytes(of: storeID.bigEndian) { label.append(contentsOf: $0) }
        label.append(contentsOf: tenant.utf8)
        hash = KeyedHash(key: KeyedHash(key: key).authenticate(label))
    }

    func encode(epoch: UInt32, offset: UInt64) -> String {
        withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 47) { raw in
            raw[0] = 1
            let bytes = UnsafeMutableRawBufferPointer(raw)
            bytes.storeBytes(of: epoch.bigEndian, toByteOffset: 1, as: UInt32.self)
            bytes.storeBytes(of: 0, toByteOffset: 5, as: UInt16.self)
            bytes.storeBytes(of: offset.bigEndian, toByteOffset: 7, as: UInt64.self)
            if let base = raw.baseAddress {
                hash.authenticate(
                    UnsafeRawBufferPointer(start: base, count: Self.authenticatedCount),
                    into: base + Self.authenticatedCount)
            }
            return String(unsafeUninitializedCapacity: Self.characterCount) { text in
                for index in 0..<3 { text[index] = Self.prefix[index] }
                var position = 3
                for group in stride(from: 0, to: Self.rawCount, by: 3) {
                    let bits = UInt32(raw[group]) << 16 | UInt32(raw[group + 1]) << 8 | UInt32(raw[group + 2])
                    text[position] = Self.character(bits >> 18)
                    text[position + 1] = Self.character(bits >> 12 & 63)
                    text[position + 2] = Self.character(bits >> 6 & 63)
                    text[position + 3] = Self.character(bits & 63)
                    position += 4
                }
                return Self.characterCount
            }
        }
    }

    /// nil for anything that this codec did not write.
    func decode(_ id: some StringProtocol) -> (epoch: UInt32, offset: UInt64)? {
        withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 64) { raw in
            var count = 0
            var bits: UInt32 = 0
            for character in id.utf8 {
                guard count < Self.characterCount else { return nil }
                if count < 3 {
                    guard character == Self.prefix[count] else { return nil }
                } else {
                    guard let value = Self.value(character) else { return nil }
                    bits = bits << 6 | value
                    if count & 3 == 2 {
                        let group = (count - 6) / 4 * 3
                        raw[group] = UInt8(truncatingIfNeeded: bits >> 16)
                        raw[group + 1] = UInt8(truncatingIfNeeded: bits >> 8)
                        raw[group + 2] = UInt8(truncatingIfNeeded: bits)
                        bits = 0
                    }
                }
                count += 1
            }
            guard count == Self.characterCount, let base = raw.baseAddress else { return nil }
            hash.authenticate(UnsafeRawBufferPointer(start: base, count: Self.authenticatedCount), into: base + 32)
            // Constant time: how long a comparison takes must not tell how much of a forged MAC is right.
            guard CRYPTO_memcmp(base + Self.authenticatedCount, base + 32, Self.rawCount - Self.authenticatedCount) == 0
            else { return nil }
            let bytes = UnsafeRawBufferPointer(raw)
            guard raw[0] == 1, raw[5] == 0, raw[6] == 0 else { return nil }
            return (
                UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: 1, as: UInt32.self)),
                UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 7, as: UInt64.self))
            )
        }
    }

    private static func character(_ value: UInt32) -> UInt8 {
        switch value {
        case 0..<26: UInt8(truncatingIfNeeded: value) &+ 65
        case 26..<52: UInt8(truncatingIfNeeded: value) &+ 71
        case 52..<62: UInt8(truncatingIfNeeded: value) &- 4
        case 62: 45  // -
        default: 95  // _
        }
    }

    private static func value(_ character: UInt8) -> UInt32? {
        switch character {
        case 65...90: UInt32(character) - 65
        case 97...122: UInt32(character) - 71
        case 48...57: UInt32(character) + 4
        case 45: 62
        case 95: 63
        default: nil
        }
    }
}
