import CCurl

/// A blocking HTTP client on one libcurl handle, which keeps its connection; used by one thread at a time.
///
/// An answer of any status is a response, a redirect too: it is not followed, since the request may carry credentials.
public final class HTTPClient {
    private let timeout: Duration
    private let maxResponseBytes: Int
    private var transfer: CurlTransfer?

    /// - Parameters:
    ///   - timeout: for a whole request, from the connection to the last byte.
    ///   - maxResponseBytes: the most bytes that a response's body may have.
    public init(timeout: Duration = .seconds(30), maxResponseBytes: Int = 256 << 20) {
        self.timeout = timeout
        self.maxResponseBytes = maxResponseBytes
    }

    /// Blocks until the response is there.
    ///
    /// - Throws: `PushClientError`: `connectionFailed`, `timedOut`, `tooLarge` or `malformed`; never `rejected`.
    public func get(_ url: String, headers: [(String, String)] = []) throws(PushClientError) -> HTTPResponse {
        let transfer = try ready(url, headers)
        isotherm_curl_set_long(transfer.handle, CURLOPT_HTTPGET, 1)
        return try response(transfer, curl_easy_perform(transfer.handle), url)
    }

    /// Blocks until the response is there. Without a `Content-Type` among the headers, none is sent.
    ///
    /// - Throws: as `get`. After `timedOut` or `connectionFailed` the server may have taken the request.
    public func post(
        _ url: String, headers: [(String, String)] = [], body: [UInt8]
    ) throws(PushClientError) -> HTTPResponse {
        let transfer = try ready(url, headers)
        isotherm_curl_set_long(transfer.handle, CURLOPT_POST, 1)
        isotherm_curl_set_offset(transfer.handle, CURLOPT_POSTFIELDSIZE_LARGE, curl_off_t(body.count))
        let result = body.withUnsafeBytes { bytes in
            if let start = bytes.baseAddress, !bytes.isEmpty {
                isotherm_curl_set_pointer(transfer.handle, CURLOPT_POSTFIELDS, UnsafeMutableRawPointer(mutating: start))
            } else {
                // Without a pointer libcurl would read the body from standard input.
                isotherm_curl_set_string(transfer.handle, CURLOPT_COPYPOSTFIELDS, "")
            }
            return curl_easy_perform(transfer.handle)
        }
        return try response(transfer, result, url)
    }

    private func ready(_ url: String, _ headers: [(String, String)]) throws(PushClientError) -> CurlTransfer {
        let transfer: CurlTransfer
        if let kept = self.transfer { transfer = kept } else { transfer = try CurlTransfer() }
        self.transfer = transfer
        try transfer.prepare(url, headers: headers)
        transfer.received.maxBodyBytes = maxResponseBytes
        isotherm_curl_set_long(transfer.handle, CURLOPT_TIMEOUT_MS, timeout.curlMilliseconds)
        return transfer
    }

    private func response(
        _ transfer: CurlTransfer, _ result: CURLcode, _ url: String
    ) throws(PushClientError) -> HTTPResponse {
        let received = transfer.received
        // The body goes to the caller whole; the next response starts with an empty one.
        defer { received.body = [] }
        if received.isTooLarge {
            throw PushClientError(
                code: .tooLarge,
                cause: "the response of \(displayed(url)) is larger than the \(maxResponseBytes) bytes of "
                    + "maxResponseBytes; ask for less or raise the limit",
                status: received.status)
        }
        if result == CURLE_OPERATION_TIMEDOUT {
            throw PushClientError(
                code: .timedOut,
                cause: "\(displayed(url)) did not answer in full within \(timeout); is the server up and reachable?",
                status: received.status == 0 ? nil : received.status)
        }
        guard result == CURLE_OK else { throw transfer.error(result, url) }
        return HTTPResponse(status: received.status, headers: received.headers, body: received.body)
    }
}
