import CCurl
import Glibc

/// One libcurl handle with its callbacks, and what they have received. Belongs to one thread.
final class CurlTransfer {
    let handle: UnsafeMutableRawPointer
    let received = Received()
    private var fields: UnsafeMutablePointer<curl_slist>?
    private let message = UnsafeMutableBufferPointer<CChar>.allocate(capacity: Int(CURL_ERROR_SIZE))

    /// The answer so far.
    final class Received {
        /// Zero until the status line has come.
        var status = 0
        var headers: [(name: String, value: String)] = []
        /// Whether the final answer's head, not that of a 1xx, is complete.
        var isHeadComplete = false
        var body: [UInt8] = []
        var maxBodyBytes = Int.max
        var isTooLarge = false

        func clear() {
            (status, isHeadComplete, isTooLarge) = (0, false, false)
            headers = []
            body.removeAll(keepingCapacity: true)
        }

        /// One line of a head, with its CRLF.
        fileprivate func take(line bytes: UnsafeRawBufferPointer) {
            let line = String(decoding: bytes.filter { $0 != 0x0D && $0 != 0x0A }, as: UTF8.self)
            if line.hasPrefix("HTTP/") {
                status = line.split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? 0
                headers = []
                isHeadComplete = false
            } else if isHeadComplete {
                // Trailers of a chunked body.
            } else if line.isEmpty {
                isHeadComplete = status >= 200
            } else if let colon = line.firstIndex(of: ":") {
                let value = line[line.index(after: colon)...].drop { $0 == " " || $0 == "\t" }
                let end = value.lastIndex { $0 != " " && $0 != "\t" }.map { value.index(after: $0) } ?? value.startIndex
                headers.append((String(line[..<colon]), String(value[..<end])))
            }
        }

        fileprivate func take(body bytes: UnsafeRawBufferPointer) -> Bool {
            guard bytes.count <= maxBodyBytes - body.count else {
                isTooLarge = true
                return false
            }
            body.append(contentsOf: bytes)
            return true
        }
    }

    /// `curl_global_init` is not thread-safe in old versions: once, before the first handle.
    private static let isReady: Bool = curl_global_init(Int(CURL_GLOBAL_DEFAULT)) == CURLE_OK

    init() throws(PushClientError) {
        guard Self.isReady, let handle = curl_easy_init() else {
            message.deallocate()
            throw PushClientError(code: .connectionFailed, cause: "libcurl could not start; is memory short?")
        }
        self.handle = handle
        message.initialize(repeating: 0)
        let context = Unmanaged.passUnretained(received).toOpaque()
        isotherm_curl_set_pointer(handle, CURLOPT_ERRORBUFFER, message.baseAddress)
        isotherm_curl_set_string(handle, CURLOPT_USERAGENT, "isotherm-client")
        isotherm_curl_set_string(handle, CURLOPT_PROTOCOLS_STR, "http,https")
        // A proxy's answer to CONNECT is not the server's.
        isotherm_curl_set_long(handle, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1)
        isotherm_curl_set_long(handle, CURLOPT_NOSIGNAL, 1)
        isotherm_curl_set_long(handle, CURLOPT_TCP_KEEPALIVE, 1)
        isotherm_curl_set_pointer(handle, CURLOPT_WRITEDATA, context)
        isotherm_curl_set_pointer(handle, CURLOPT_HEADERDATA, context)
        isotherm_curl_set_callback(handle, CURLOPT_WRITEFUNCTION) { data, size, count, context in
            guard let data, let context else { return 0 }
            let received = Unmanaged<Received>.fromOpaque(context).takeUnretainedValue()
            let isTaken = received.take(body: UnsafeRawBufferPointer(start: data, count: size * count))
            // Fewer bytes than given end the transfer.
            return isTaken ? size * count : 0
        }
        isotherm_curl_set_callback(handle, CURLOPT_HEADERFUNCTION) { data, size, count, context in
            guard let data, let context else { return 0 }
            let received = Unmanaged<Received>.fromOpaque(context).takeUnretainedValue()
            received.take(line: UnsafeRawBufferPointer(start: data, count: size * count))
            return size * count
        }
    }

    deinit {
        curl_easy_cleanup(handle)
        curl_slist_free_all(fields)
        message.deallocate()
    }

    /// Sets the target and the headers of the next request, and forgets the last answer.
    func prepare(_ url: String, headers: [(String, String)]) throws(PushClientError) {
        guard !url.isEmpty, url.utf8.allSatisfy({ $0 > 0x20 && $0 != 0x7F }) else {
            throw PushClientError(
                code: .malformed,
                cause: "the URL \(displayed(url).debugDescription) is empty or has a space or a control character; "
                    + "percent-encode it")
        }
        var list: UnsafeMutablePointer<curl_slist>?
        for (name, value) in headers {
            guard Self.isToken(name), value.utf8.allSatisfy({ $0 >= 0x20 || $0 == 0x09 }) else {
                curl_slist_free_all(list)
                throw PushClientError(
                    code: .malformed,
                    cause:
                        "the header \(name.debugDescription) for \(displayed(url)) has a name that is not a token or "
                        + "a value with a control character; remove it")
            }
            // `Name:` would mean to libcurl: do not send this header; `Name;` is the header without a value.
            list = curl_slist_append(list, value.isEmpty ? "\(name);" : "\(name): \(value)")
        }
        // libcurl would wait a second for a "100 Continue" before larger bodies, and would claim a web form.
        list = curl_slist_append(list, "Expect:")
        if !headers.contains(where: { $0.0.lowercased() == "content-type" }) {
            list = curl_slist_append(list, "Content-Type:")
        }
        isotherm_curl_set_list(handle, CURLOPT_HTTPHEADER, list)
        curl_slist_free_all(fields)
        fields = list
        isotherm_curl_set_string(handle, CURLOPT_URL, url)
        message.update(repeating: 0)
        received.clear()
    }

    /// A failed transfer as an error.
    func error(_ result: CURLcode, _ url: String) -> PushClientError {
        let text = message.first == 0 ? String(cString: curl_easy_strerror(result)) : detail
        let status = received.status == 0 ? nil : received.status
        let code: PushClientError.Code
        switch result {
        case CURLE_OPERATION_TIMEDOUT: code = .timedOut
        case CURLE_URL_MALFORMAT, CURLE_UNSUPPORTED_PROTOCOL, CURLE_WEIRD_SERVER_REPLY, CURLE_HTTP2: code = .malformed
        default: code = .connectionFailed
        }
        return PushClientError(code: code, cause: "\(displayed(url)): \(text)", status: status)
    }

    private var detail: String {
        String(decoding: message.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// RFC 9110, section 5.6.2.
    private static func isToken(_ name: String) -> Bool {
        !name.isEmpty
            && name.utf8.allSatisfy { byte in
                switch byte {
                case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                    UInt8(ascii: "a")...UInt8(ascii: "z"):
                    true
                default: "!#$%&'*+-.^_`|~".utf8.contains(byte)
                }
            }
    }
}

extension Duration {
    /// Whole milliseconds, rounded up, at least 1 and within what libcurl takes (its zero means: for ever).
    var curlMilliseconds: Int {
        let (seconds, attoseconds) = components
        guard seconds < 2_000_000 else { return 2_000_000_000 }
        return max(1, Int(seconds) * 1000 + Int((attoseconds + 999_999_999_999_999) / 1_000_000_000_000_000))
    }
}
