import CCurl
import Glibc
import OTLP

/// One libcurl handle, used again for every request so that the connection is kept. Belongs to one thread.
final class HTTPRequest {
    enum Outcome {
        /// Taken, but for so many spans; a message may say more.
        case accepted(rejected: Int64, message: String)
        case retry(String, after: Duration?)
        case tooLarge(String)
        case final(String)
    }

    private let handle: UnsafeMutableRawPointer
    /// Drives the handle, so that a request under way can be given up at once: on its own it looks up once a second.
    private let multi: UnsafeMutableRawPointer
    private var fields: UnsafeMutablePointer<curl_slist>?
    private let exchange = Exchange()

    /// What libcurl's callbacks fill in.
    private final class Exchange {
        var body: [UInt8] = []
        var maxBytes = 0
        var retryAfter: String?
    }

    private static let abortCheckMilliseconds: Int32 = 50

    /// `curl_global_init` is not thread-safe in old versions: once, before the first handle.
    private static let global: Void = { curl_global_init(Int(CURL_GLOBAL_DEFAULT)) == CURLE_OK ? () : () }()

    init?(settings: OTLPExporterSettings) {
        _ = Self.global
        guard let handle = curl_easy_init() else { return nil }
        guard let multi = curl_multi_init() else {
            curl_easy_cleanup(handle)
            return nil
        }
        self.handle = handle
        self.multi = multi
        var list: UnsafeMutablePointer<curl_slist>?
        list = curl_slist_append(list, "Content-Type: application/x-protobuf")
        if settings.compression == .gzip { list = curl_slist_append(list, "Content-Encoding: gzip") }
        // libcurl would wait a second for a "100 Continue" before larger bodies.
        list = curl_slist_append(list, "Expect:")
        for (name, value) in settings.headers { list = curl_slist_append(list, "\(name): \(value)") }
        fields = list
        let context = Unmanaged.passUnretained(exchange).toOpaque()
        isotherm_curl_set_string(handle, CURLOPT_URL, settings.endpoint ?? "")
        isotherm_curl_set_string(handle, CURLOPT_USERAGENT, "isotherm-telemetry/\(SDKVersion.current)")
        isotherm_curl_set_string(handle, CURLOPT_PROTOCOLS_STR, "http,https")
        isotherm_curl_set_list(handle, CURLOPT_HTTPHEADER, list)
        isotherm_curl_set_long(handle, CURLOPT_POST, 1)
        isotherm_curl_set_long(handle, CURLOPT_NOSIGNAL, 1)
        isotherm_curl_set_long(handle, CURLOPT_TCP_KEEPALIVE, 1)
        isotherm_curl_set_pointer(handle, CURLOPT_WRITEDATA, context)
        isotherm_curl_set_pointer(handle, CURLOPT_HEADERDATA, context)
        isotherm_curl_set_callback(handle, CURLOPT_WRITEFUNCTION) { data, size, count, context in
            guard let data, let context else { return 0 }
            let exchange = Unmanaged<Exchange>.fromOpaque(context).takeUnretainedValue()
            let bytes = UnsafeRawBufferPointer(start: data, count: size * count)
            // Fewer bytes than given ends the transfer.
            guard exchange.body.count + bytes.count <= exchange.maxBytes else { return 0 }
            exchange.body.append(contentsOf: bytes)
            return bytes.count
        }
        isotherm_curl_set_callback(handle, CURLOPT_HEADERFUNCTION) { data, size, count, context in
            guard let data, let context else { return 0 }
            let exchange = Unmanaged<Exchange>.fromOpaque(context).takeUnretainedValue()
            let line = String(decoding: UnsafeRawBufferPointer(start: data, count: size * count), as: UTF8.self)
            if line.lowercased().hasPrefix("retry-after:") {
                exchange.retryAfter = line.dropFirst("retry-after:".count).filter {
                    $0 != "\r" && $0 != "\n" && $0 != "\r\n"
                }
            }
            return size * count
        }
    }

    deinit {
        curl_slist_free_all(fields)
        curl_easy_cleanup(handle)
        curl_multi_cleanup(multi)
    }

    func post(
        _ body: UnsafeRawBufferPointer, timeout: Duration, maxResponseBytes: Int, isAborted: () -> Bool
    ) -> Outcome {
        exchange.body = []
        exchange.maxBytes = maxResponseBytes
        exchange.retryAfter = nil
        isotherm_curl_set_offset(handle, CURLOPT_POSTFIELDSIZE_LARGE, curl_off_t(body.count))
        isotherm_curl_set_pointer(handle, CURLOPT_POSTFIELDS, UnsafeMutableRawPointer(mutating: body.baseAddress))
        isotherm_curl_set_long(handle, CURLOPT_TIMEOUT_MS, Int(max(1, timeout.milliseconds)))
        let result = perform(isAborted)
        guard result == CURLE_OK else { return failure(result) }
        var status = 0
        isotherm_curl_get_long(handle, CURLINFO_RESPONSE_CODE, &status)
        return answer(status)
    }

    private func perform(_ isAborted: () -> Bool) -> CURLcode {
        guard curl_multi_add_handle(multi, handle) == CURLM_OK else { return CURLE_FAILED_INIT }
        defer { curl_multi_remove_handle(multi, handle) }
        var running: Int32 = 1
        while true {
            guard curl_multi_perform(multi, &running) == CURLM_OK else { return CURLE_FAILED_INIT }
            if running == 0 { break }
            if isAborted() { return CURLE_ABORTED_BY_CALLBACK }
            curl_multi_poll(multi, nil, 0, Self.abortCheckMilliseconds, nil)
        }
        var left: Int32 = 0
        while let message = curl_multi_info_read(multi, &left) {
            if message.pointee.msg == CURLMSG_DONE { return message.pointee.data.result }
        }
        return CURLE_GOT_NOTHING
    }

    private func failure(_ result: CURLcode) -> Outcome {
        let cause = String(cString: curl_easy_strerror(result))
        var status = 0
        isotherm_curl_get_long(handle, CURLINFO_RESPONSE_CODE, &status)
        // A success whose body is cut off or endless was a success all the same.
        if (200..<300).contains(status) {
            return .accepted(rejected: 0, message: "the answer's body was not read: \(cause)")
        }
        // So was any other status an answer.
        if status >= 300 { return answer(status) }
        switch result {
        case CURLE_COULDNT_CONNECT, CURLE_COULDNT_RESOLVE_HOST, CURLE_COULDNT_RESOLVE_PROXY, CURLE_GOT_NOTHING,
            CURLE_SEND_ERROR, CURLE_RECV_ERROR, CURLE_SSL_CONNECT_ERROR:
            return .retry(cause, after: nil)
        case CURLE_OPERATION_TIMEDOUT:
            // Only when nothing was sent: a request that was sent may have been taken. The time of the connection does
            // not tell, since it is 0 for a connection that was kept.
            var sent = 0
            isotherm_curl_get_long(handle, CURLINFO_REQUEST_SIZE, &sent)
            return sent == 0 ? .retry(cause, after: nil) : .final("no answer in time; it may have been taken")
        case CURLE_ABORTED_BY_CALLBACK:
            return .retry("aborted", after: nil)
        default:
            return .final(cause)
        }
    }

    private func answer(_ status: Int) -> Outcome {
        switch status {
        case 200..<300:
            let (rejected, message) = Self.partialSuccess(exchange.body)
            return .accepted(rejected: rejected, message: message)
        case 429, 502, 503, 504:
            return .retry("status \(status)", after: exchange.retryAfter.flatMap(RetryAfter.parse))
        case 413:
            return .tooLarge("status 413")
        default:
            let text = exchange.body.prefix(200).map { (0x20...0x7E).contains($0) ? $0 : UInt8(ascii: ".") }
            return .final("status \(status) \(String(decoding: text, as: UTF8.self))")
        }
    }

    /// `ExportTraceServiceResponse`: 1 partial_success{1 rejected_spans, 2 error_message}. What is not protobuf, or
    /// empty, is a full success.
    static func partialSuccess(_ body: [UInt8]) -> (rejected: Int64, message: String) {
        var rejected: Int64 = 0
        var message = ""
        body.withUnsafeBytes { bytes in
            do throws(OTLPDecodingError) {
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
            } catch {
                // Another content type, or garbage behind a success.
                (rejected, message) = (0, "")
            }
        }
        return (rejected, message)
    }
}

/// `Retry-After`: seconds, or an HTTP date (RFC 9110, section 10.2.3). Nil for anything else; zero for a past date.
enum RetryAfter {
    static func parse(_ text: String) -> Duration? {
        let text = text.drop { $0 == " " }
        if let seconds = Int64(text), seconds >= 0 { return .seconds(min(seconds, 1_000_000_000)) }
        let date = curl_getdate(String(text), nil)
        guard date >= 0 else { return nil }
        return .seconds(max(0, Int64(date) - Int64(time(nil))))
    }
}
