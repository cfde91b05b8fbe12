import CCurl
import Glibc

/// One libcurl handle, used again for every request so that the connection is kept. Belongs to one thread.
final class Transfer {
    let handle: UnsafeMutableRawPointer
    private var fields: UnsafeMutablePointer<curl_slist>?
    private let exchange = Exchange()

    /// What libcurl's callbacks fill in.
    private final class Exchange {
        var body: [UInt8] = []
        var retryAfter: String?
        let errorText = UnsafeMutablePointer<CChar>.allocate(capacity: Int(CURL_ERROR_SIZE))

        deinit { errorText.deallocate() }
    }

    /// An answer may be this long, decompressed; more is not read.
    private static let maxResponseBytes = 4 * 1024 * 1024
    /// What the request is about; a configured header cannot say otherwise.
    private static let ownFields: Set<String> = ["content-type", "content-encoding", "content-length", "expect"]

    /// Whether the environment names a proxy, by one of the names that libcurl knows.
    private static let hasProxy = ["http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"].contains {
        (name: String) in getenv(name) != nil
    }

    /// Nil for want of memory.
    init?(settings: OTLPExporterSettings, encoder: PayloadEncoder) {
        guard let handle = curl_easy_init() else { return nil }
        self.handle = handle
        var list: UnsafeMutablePointer<curl_slist>?
        list = curl_slist_append(list, "Content-Type: \(encoder.contentType)")
        if let encoding = encoder.contentEncoding { list = curl_slist_append(list, "Content-Encoding: \(encoding)") }
        // libcurl would wait a second for a "100 Continue" before larger bodies.
        list = curl_slist_append(list, "Expect:")
        for (name, value) in settings.headers where !Self.ownFields.contains(name.lowercased()) {
            list = curl_slist_append(list, "\(name): \(value)")
        }
        // libcurl would format these, as its own fields, twice for every request.
        let given = Set(settings.headers.map { $0.0.lowercased() })
        let agent = "OTel-OTLP-Exporter-Swift/\(SDKVersion.current)"
        for (name, value) in [("Accept-Encoding", " gzip"), ("User-Agent", " \(agent)"), ("Accept", "")]
        where !given.contains(name.lowercased()) {
            list = curl_slist_append(list, "\(name):\(value)")
        }
        fields = list
        isotherm_curl_set_string(handle, CURLOPT_URL, settings.endpoint ?? "")
        isotherm_curl_set_string(handle, CURLOPT_PROTOCOLS_STR, "http,https")
        isotherm_curl_set_string(handle, CURLOPT_ACCEPT_ENCODING, "gzip")
        isotherm_curl_set_list(handle, CURLOPT_HTTPHEADER, list)
        isotherm_curl_set_long(handle, CURLOPT_POST, 1)
        isotherm_curl_set_long(handle, CURLOPT_NOSIGNAL, 1)
        isotherm_curl_set_long(handle, CURLOPT_TCP_KEEPALIVE, 1)
        // A request of 512 spans in one piece.
        isotherm_curl_set_long(handle, CURLOPT_UPLOAD_BUFFERSIZE, 256 * 1024)
        // libcurl would look for a proxy in the environment at every request.
        if !Self.hasProxy { isotherm_curl_set_string(handle, CURLOPT_NOPROXY, "*") }
        if let file = settings.certificateFile { isotherm_curl_set_string(handle, CURLOPT_CAINFO, file) }
        if let file = settings.clientCertificateFile { isotherm_curl_set_string(handle, CURLOPT_SSLCERT, file) }
        if let file = settings.clientKeyFile { isotherm_curl_set_string(handle, CURLOPT_SSLKEY, file) }
        isotherm_curl_set_pointer(handle, CURLOPT_ERRORBUFFER, exchange.errorText)
        setCallbacks()
    }

    deinit {
        curl_easy_cleanup(handle)
        curl_slist_free_all(fields)
    }

    private func setCallbacks() {
        let context = Unmanaged.passUnretained(exchange).toOpaque()
        isotherm_curl_set_pointer(handle, CURLOPT_WRITEDATA, context)
        isotherm_curl_set_pointer(handle, CURLOPT_HEADERDATA, context)
        isotherm_curl_set_callback(handle, CURLOPT_WRITEFUNCTION) { data, size, count, context in
            guard let data, let context else { return 0 }
            let exchange = Unmanaged<Exchange>.fromOpaque(context).takeUnretainedValue()
            let bytes = UnsafeRawBufferPointer(start: data, count: size * count)
            // Fewer bytes than given ends the transfer.
            guard exchange.body.count + bytes.count <= Transfer.maxResponseBytes else { return 0 }
            exchange.body.append(contentsOf: bytes)
            return bytes.count
        }
        isotherm_curl_set_callback(handle, CURLOPT_HEADERFUNCTION) { data, size, count, context in
            guard let data, let context else { return 0 }
            let exchange = Unmanaged<Exchange>.fromOpaque(context).takeUnretainedValue()
            let line = UnsafeRawBufferPointer(start: data, count: size * count)
            if let value = RetryAfter.value(ofLine: line) { exchange.retryAfter = value }
            return size * count
        }
    }

    /// `body` must stay where it is until the request has ended.
    func prepare(_ body: UnsafeRawBufferPointer, timeout: Duration) {
        // An answer may have been long; its memory is not kept.
        exchange.body = []
        exchange.retryAfter = nil
        exchange.errorText[0] = 0
        isotherm_curl_set_offset(handle, CURLOPT_POSTFIELDSIZE_LARGE, curl_off_t(body.count))
        isotherm_curl_set_pointer(handle, CURLOPT_POSTFIELDS, UnsafeMutableRawPointer(mutating: body.baseAddress))
        isotherm_curl_set_long(handle, CURLOPT_TIMEOUT_MS, Int(max(1, timeout.milliseconds)))
    }

    /// What became of the request that has ended.
    func answer(_ result: CURLcode) -> Answer {
        var status = 0
        isotherm_curl_get_long(handle, CURLINFO_RESPONSE_CODE, &status)
        guard result != CURLE_OK else {
            return .status(status, body: exchange.body, retryAfter: exchange.retryAfter)
        }
        // The time of the connection does not tell whether anything was sent, since it is 0 for one that was kept.
        var sent = 0
        isotherm_curl_get_long(handle, CURLINFO_REQUEST_SIZE, &sent)
        let detail = String(cString: exchange.errorText)
        return .failure(
            result, cause: detail.isEmpty ? String(cString: curl_easy_strerror(result)) : detail, status: status,
            body: exchange.body, retryAfter: exchange.retryAfter, isSent: sent > 0)
    }
}
