import CSSL
import Glibc
import Synchronization

/// A certificate and its key, as OpenSSL uses them: TLS 1.2 and 1.3, forward secrecy, AEAD ciphers only, no renegotiation,
/// no compression, no early data. ALPN chooses `h2`, then `http/1.1`.
///
/// OpenSSL counts references to a context itself and locks inside: a connection keeps the one that it began with, so a
/// reload disturbs nobody. Immutable after `init`: `@unchecked Sendable`.
final class TLSContext: @unchecked Sendable {
    let pointer: OpaquePointer
    /// The end of the certificate's validity.
    let notAfterUnixSeconds: Int

    struct Failure: Error, CustomStringConvertible {
        let description: String
    }

    /// - Parameters:
    ///   - certificate: path of a PEM file: the certificate, then those that lead to its root.
    ///   - key: path of a PEM file with its private key, without a passphrase.
    init(certificate: String, key: String) throws(Failure) {
        ERR_clear_error()
        guard let context = SSL_CTX_new(TLS_server_method()) else { throw Failure(description: Self.reason("TLS")) }
        pointer = context
        do throws(Failure) {
            try Self.require(isotherm_ssl_set_tls_1_2_and_later(context) == 1, "TLS 1.2")
            try Self.require(
                SSL_CTX_set_cipher_list(context, "ECDHE+AESGCM:ECDHE+CHACHA20") == 1, "cipher list")
            isotherm_ssl_set_modes(context)
            isotherm_ssl_set_options(context)
            try Self.require(
                SSL_CTX_use_certificate_chain_file(context, certificate) == 1, "tls.certificate \(certificate)")
            try Self.require(
                SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) == 1, "tls.key \(key)")
            try Self.require(
                SSL_CTX_check_private_key(context) == 1, "tls.key \(key) is not the key of \(certificate)")
            SSL_CTX_set_alpn_select_cb(context, Self.selectProtocol, nil)
            notAfterUnixSeconds = Self.notAfter(context)
        } catch {
            SSL_CTX_free(context)
            throw error
        }
    }

    deinit { SSL_CTX_free(pointer) }

    private static func require(_ isTrue: Bool, _ what: String) throws(Failure) {
        guard isTrue else { throw Failure(description: reason(what)) }
    }

    private static func reason(_ what: String) -> String {
        let code = ERR_get_error()
        ERR_clear_error()
        guard code != 0 else { return what }
        var text = [CChar](repeating: 0, count: 256)
        ERR_error_string_n(code, &text, text.count)
        return what + ": " + String(decoding: text.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    }

    private static func notAfter(_ context: OpaquePointer) -> Int {
        guard let certificate = SSL_CTX_get0_certificate(context), let time = X509_get0_notAfter(certificate) else {
            return 0
        }
        var parts = tm()
        guard ASN1_TIME_to_tm(time, &parts) == 1 else { return 0 }
        return timegm(&parts)
    }

    /// Names of one byte's length each, as RFC 7301 has them. No common one is an error of the handshake.
    private static let selectProtocol: SSL_CTX_alpn_select_cb_func = {
        _, selected, selectedLength, offered, length, _ in
        guard let offered, let selected, let selectedLength else { return SSL_TLSEXT_ERR_ALERT_FATAL }
        let bytes = UnsafeBufferPointer(start: offered, count: Int(length))
        for wanted in ["h2", "http/1.1"] as [StaticString] {
            var index = 0
            while index < bytes.count {
                let size = Int(bytes[index])
                guard index + 1 + size <= bytes.count else { break }
                if size == wanted.utf8CodeUnitCount, memcmp(offered + index + 1, wanted.utf8Start, size) == 0 {
                    selected.pointee = offered + index + 1
                    selectedLength.pointee = UInt8(size)
                    return SSL_TLSEXT_ERR_OK
                }
                index += 1 + size
            }
        }
        return SSL_TLSEXT_ERR_ALERT_FATAL
    }
}

/// The certificate in force. It is read again when its files change, and when somebody asks; one that cannot be used
/// leaves the one before in place.
final class TLSStore: Sendable {
    private let configuration: TLSConfiguration
    private let state: Mutex<State>
    private let handshakes = Mutex<(succeeded: UInt64, failed: UInt64)>((0, 0))

    private struct State {
        var context: TLSContext
        /// Of the files at the last attempt, whatever came of it.
        var digests: [[UInt8]?]
        var reloads: UInt64 = 0
        var failures: UInt64 = 0
    }

    /// Of a file's content; nil where it cannot be read.
    private static func digest(of path: String) -> [UInt8]? {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        // A chain of certificates has a few kilobytes.
        var bytes = [UInt8](repeating: 0, count: 1 << 18)
        var count = 0
        while count < bytes.count {
            let more = bytes.withUnsafeMutableBytes {
                read(descriptor, $0.baseAddress.map { $0 + count }, $0.count - count)
            }
            guard more > 0 else { break }
            count += more
        }
        return [UInt8](unsafeUninitializedCapacity: 32) { buffer, size in
            _ = SHA256(bytes, count, buffer.baseAddress)
            size = 32
        }
    }

    init(_ configuration: TLSConfiguration) throws(TLSContext.Failure) {
        self.configuration = configuration
        let digests = [configuration.certificate, configuration.key].map(Self.digest)
        let context = try TLSContext(certificate: configuration.certificate, key: configuration.key)
        state = Mutex(State(context: context, digests: digests))
    }

    var context: TLSContext { state.withLock { $0.context } }

    /// Reads the files again where they have changed, or in any case. Nil where there was nothing to do; blocks on the
    /// disk.
    func reload(always: Bool) -> Result<TLSContext, TLSContext.Failure>? {
        let digests = [configuration.certificate, configuration.key].map(Self.digest)
        let hasChanged = state.withLock { state in
            defer { state.digests = digests }
            return state.digests != digests
        }
        guard always || hasChanged else { return nil }
        let result = Result { () throws(TLSContext.Failure) in
            try TLSContext(certificate: configuration.certificate, key: configuration.key)
        }
        state.withLock { state in
            switch result {
            case .success(let context):
                state.context = context
                state.reloads += 1
            case .failure: state.failures += 1
            }
        }
        return result
    }

    func handshakeEnded(_ succeeded: Bool) {
        handshakes.withLock { if succeeded { $0.succeeded += 1 } else { $0.failed += 1 } }
    }

    struct Counts {
        let handshakes: UInt64
        let failedHandshakes: UInt64
        let reloads: UInt64
        let failedReloads: UInt64
    }

    var counts: Counts {
        let (succeeded, failed) = handshakes.withLock { $0 }
        return state.withLock {
            Counts(handshakes: succeeded, failedHandshakes: failed, reloads: $0.reloads, failedReloads: $0.failures)
        }
    }
}
