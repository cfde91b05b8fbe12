import Synchronization

/// Remembers the requests of the last minutes by a fingerprint of their bytes, to know one that is sent again.
///
/// A collector whose answer got lost sends the same bytes once more. Spans hold random ids and times in nanoseconds, so two
/// requests that are equal are the same one. Fingerprints have 128 bits, and a seed that differs in every process.
final class DuplicateFilter: Sendable {
    struct Fingerprint: Hashable {
        let high: UInt64
        let low: UInt64
    }

    private struct State {
        /// When it came.
        var seen: [Fingerprint: UInt64] = [:]
        /// In the order of arrival, from `first` on, as a ring.
        var ring: [Fingerprint] = []
        var first = 0
    }

    private let windowNano: UInt64
    private let limit: Int
    private let seed = UInt64.random(in: 0 ... .max)
    private let state = Mutex(State())

    init(window: Duration, limit: Int) {
        windowNano = limit > 0 ? window.nanoseconds : 0
        self.limit = limit
    }

    var isOn: Bool { windowNano > 0 }

    /// Whether such a request came within the window; otherwise it is remembered.
    func isRepeated(_ fingerprint: Fingerprint, now: UInt64) -> Bool {
        state.withLock { state in
            if let before = state.seen[fingerprint], now < before.saturatingAdding(windowNano) { return true }
            if state.seen.updateValue(now, forKey: fingerprint) != nil { return false }
            if state.ring.count < limit {
                state.ring.append(fingerprint)
            } else {
                state.seen[state.ring[state.first]] = nil
                state.ring[state.first] = fingerprint
                state.first = (state.first + 1) % limit
            }
            return false
        }
    }

    /// Of a request and of whom it came from.
    func fingerprint(_ bytes: UnsafeRawBufferPointer, sender: String) -> Fingerprint {
        var lanes: (UInt64, UInt64, UInt64, UInt64) = (
            seed, seed ^ 0x9E37_79B9_7F4A_7C15, ~seed, seed &+ UInt64(bytes.count)
        )
        var at = 0
        if let start = bytes.baseAddress {
            // Four chains side by side, as one alone would wait for its multiplications; each takes 16 bytes with one.
            while at &+ 64 <= bytes.count {
                lanes.0 = Self.fold(lanes.0, start, at, seed)
                lanes.1 = Self.fold(lanes.1, start, at &+ 16, seed)
                lanes.2 = Self.fold(lanes.2, start, at &+ 32, seed)
                lanes.3 = Self.fold(lanes.3, start, at &+ 48, seed)
                at &+= 64
            }
        }
        var tail: UInt64 = 0
        while at < bytes.count {
            tail = Self.fold(tail ^ UInt64(bytes[at]) ^ seed)
            at &+= 1
        }
        for byte in sender.utf8 { tail = Self.fold(tail ^ UInt64(byte) ^ lanes.0) }
        let first = Self.fold(lanes.0 ^ tail) &+ Self.fold(lanes.1 ^ 0x94D0_49BB_1331_11EB)
        let second = Self.fold(lanes.2 ^ tail &* 3) &+ Self.fold(lanes.3 ^ 0xD6E8_FEB8_6659_FD93)
        return Fingerprint(high: Self.fold(first ^ second), low: first &+ second &* 0x9E37_79B9_7F4A_7C15)
    }

    /// Both factors have secrets in them, so that nobody can choose one to be 0.
    @inline(__always)
    private static func fold(_ lane: UInt64, _ start: UnsafeRawPointer, _ at: Int, _ seed: UInt64) -> UInt64 {
        let first = start.loadUnaligned(fromByteOffset: at, as: UInt64.self)
        let second = start.loadUnaligned(fromByteOffset: at &+ 8, as: UInt64.self)
        let product = (lane ^ first).multipliedFullWidth(by: second ^ seed ^ 0xA076_1D64_78BD_642F)
        return product.high ^ product.low ^ lane
    }

    @inline(__always)
    private static func fold(_ value: UInt64) -> UInt64 {
        let product = (value ^ 0xA076_1D64_78BD_642F).multipliedFullWidth(by: 0xBF58_476D_1CE4_E5B9)
        return product.high ^ product.low
    }
}
