import CSSL
import Glibc

/// A socket, with TLS on it where its URL begins with `https`. Belongs to one thread; nothing blocks once it is open.
///
/// Reads and writes answer as `read(2)` and `send(2)` do, with EAGAIN where TLS has to wait for the network.
struct Wire {
    private(set) var descriptor: Int32 = -1
    private var ssl: OpaquePointer?

    var isOpen: Bool { descriptor >= 0 }
    /// Whether its events say nothing about what it has already read.
    @inline(__always)
    var hasMore: Bool { ssl.map { SSL_has_pending($0) == 1 } ?? false }

    init() {}

    /// - Parameter descriptor: of a socket that is connecting or connected.
    init(_ descriptor: Int32, _ client: TLSClient?) {
        self.descriptor = descriptor
        guard let client, let ssl = SSL_new(client.context) else { return }
        SSL_set_fd(ssl, descriptor)
        SSL_set_connect_state(ssl)
        self.ssl = ssl
    }

    mutating func close() {
        if let ssl { SSL_free(ssl) }
        if descriptor >= 0 { Glibc.close(descriptor) }
        self = Wire()
    }

    /// One step of the handshake; nil once it is done, or at once without TLS.
    mutating func shakeHands() -> (interest: UInt32, cause: String?)? {
        guard let ssl else { return nil }
        ERR_clear_error()
        let result = SSL_do_handshake(ssl)
        guard result != 1 else { return nil }
        switch SSL_get_error(ssl, result) {
        case SSL_ERROR_WANT_READ: return (Poller.input, nil)
        case SSL_ERROR_WANT_WRITE: return (Poller.output, nil)
        default: return (0, "TLS: \(TLSClient.reason)")
        }
    }

    /// The protocol that the server has chosen by ALPN.
    var chosenProtocol: String? {
        var name: UnsafePointer<UInt8>?
        var length: UInt32 = 0
        SSL_get0_alpn_selected(ssl, &name, &length)
        return name.map { String(decoding: UnsafeBufferPointer(start: $0, count: Int(length)), as: UTF8.self) }
    }

    @inline(__always)
    func read(_ to: UnsafeMutablePointer<UInt8>, _ count: Int) -> Int {
        guard let ssl else { return Glibc.read(descriptor, to, count) }
        return Self.result(ssl, SSL_read(ssl, to, Int32(clamping: count)))
    }

    @inline(__always)
    func send(_ from: UnsafePointer<UInt8>, _ count: Int) -> Int {
        guard let ssl else { return Glibc.send(descriptor, from, count, Int32(MSG_NOSIGNAL)) }
        return Self.result(ssl, SSL_write(ssl, from, Int32(clamping: count)))
    }

    private static func result(_ ssl: OpaquePointer, _ result: Int32) -> Int {
        guard result <= 0 else { return Int(result) }
        defer { ERR_clear_error() }
        switch SSL_get_error(ssl, result) {
        case SSL_ERROR_ZERO_RETURN: return 0
        case SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE: errno = EAGAIN
        case SSL_ERROR_SYSCALL: if errno == 0 { return 0 }
        default: errno = EPROTO
        }
        return -1
    }
}

/// What the generator's connections offer in their handshakes: TLS 1.2 and later. Certificates are not checked, since a
/// server that is measured often has one of its own making.
final class TLSClient: @unchecked Sendable {  // OpenSSL locks what its connections share
    let context: OpaquePointer

    /// - Parameter offers: a protocol for ALPN, such as `h2`.
    init(offers name: String) throws(LoadError) {
        guard let context = SSL_CTX_new(TLS_client_method()) else {
            throw LoadError(code: .system, cause: "TLS: \(Self.reason)")
        }
        self.context = context
        SSL_CTX_set_verify(context, SSL_VERIFY_NONE, nil)
        isotherm_ssl_set_client_modes(context)
        let list = [UInt8(clamping: name.utf8.count)] + Array(name.utf8)
        SSL_CTX_set_alpn_protos(context, list, UInt32(list.count))
    }

    deinit { SSL_CTX_free(context) }

    static var reason: String {
        let code = ERR_get_error()
        ERR_clear_error()
        guard code != 0 else { return "the connection was closed" }
        var text = [CChar](repeating: 0, count: 256)
        ERR_error_string_n(code, &text, text.count)
        return String(decoding: text.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    }
}
