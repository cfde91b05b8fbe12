import LatencyHeatmap

extension LoadReport {
    /// For a person; units stand beside the figures.
    public func text() -> String {
        var lines: [String] = []
        let rate = plan.rate.map { "\(Self.number($0)) events/s" } ?? "as many events as are answered"
        let channels = plan.channels == 1 ? "" : " on \(Self.number(plan.channels)) channels"
        lines.append(
            "\(plan.target.name)  \(Self.number(connections.asked)) connections\(channels), \(rate), "
                + "\(Self.number(plan.duration.seconds)) s after \(Self.number(plan.warmUp.seconds)) s of warm-up, "
                + "\(Self.number(plan.size)) bytes, \(plan.publishers) publishers")
        if isInterrupted { lines.append("interrupted: these are the figures up to then") }
        lines.append("")
        lines += connectionLines
        if published.due > 0 || published.sent > 0 {
            lines += publishedLines
            if connections.opened > 0 { lines += deliveryLines }
        }
        if plan.stalled > 0 {
            lines.append(
                row(
                    "stalled",
                    "\(Self.number(stalledOpened)) opened and not read, \(Self.number(stalledClosed)) closed by "
                        + "the server"))
        }
        if let storm { lines.append(row("storm", Self.text(storm))) }
        if let server {
            var text = "\(Self.number(server.cpuSeconds)) s of CPU, \(Self.percent(server.cpuShare)) of a core"
            if connections.opened == 0, let perEvent = serverCPUMicrosecondsPerEvent {
                text += ", \(Self.number(perEvent)) µs an event"
            } else if let perDelivery = serverCPUMicrosecondsPerDelivery {
                text += ", \(Self.number(perDelivery)) µs a delivery"
            }
            if let memory = server.memoryBytes { text += "; \(Self.number(Double(memory) / 1e6)) MB (PSS)" }
            lines.append(row("server", text + "; process \(server.pids.map { "\($0)" }.joined(separator: ", "))"))
        }
        if published.sent > 0 {
            lines.append(row("generator", "busiest thread \(Self.percent(generatorShare)) of a core"))
        }
        for note in notes { lines.append(row("note", note)) }
        return lines.joined(separator: "\n") + "\n"
    }

    private var connectionLines: [String] {
        var text = "\(Self.number(connections.opened)) of \(Self.number(connections.asked)) open"
        if let rate = connections.perSecond { text += ", \(Self.number(rate))/s" }
        if let cpu = connections.serverCPUMicroseconds { text += "; server: \(Self.number(cpu)) µs of CPU" }
        if let memory = connections.memoryBytes { text += " and \(Self.number(memory.rounded())) bytes (PSS) each" }
        var lines = [row("connections", text)]
        if connections.ended > 0 || connections.reconnects > 0 {
            lines.append(
                row(
                    "",
                    "\(Self.number(Int(connections.ended))) ended by the server, "
                        + "\(Self.number(Int(connections.reconnects))) opened again"))
        }
        for (reason, count) in connections.failures.sorted(by: { ($1.value, $0.key) < ($0.value, $1.key) }) {
            lines.append(row("", "\(Self.number(count)) attempts failed: \(reason)"))
        }
        return lines
    }

    private var publishedLines: [String] {
        var text =
            "\(Self.number(published.accepted)) accepted of \(Self.number(published.due)) due, "
            + "\(Self.number(published.perSecond))/s"
        let unsent = published.due - published.sent
        if unsent > 0 { text += ", \(Self.number(unsent)) not even sent" }
        for (status, count) in published.refused.sorted(by: { $0.key < $1.key }) {
            text += ", \(Self.number(count)) refused with \(status)"
        }
        if published.unanswered > 0 { text += ", \(Self.number(published.unanswered)) not answered" }
        return [row("published", text), row("answer", Self.latency(published.answers) + "  from sending")]
    }

    private var deliveryLines: [String] {
        var text =
            "\(Self.number(Int(deliveries.received))) of \(Self.number(deliveries.expected)), "
            + "\(Self.number(deliveries.perSecond))/s: \(Self.number(deliveries.lost)) lost, "
            + "\(Self.number(Int(deliveries.duplicates))) repeated, \(Self.number(Int(deliveries.outOfOrder))) out of order"
        if deliveries.misrouted > 0 { text += ", \(Self.number(Int(deliveries.misrouted))) on a wrong stream" }
        if deliveries.received > 0 {
            text += "; \(Self.number((Double(deliveries.bytes) / Double(deliveries.received)).rounded())) bytes each"
        }
        let error = deliveries.latencies.relativeError
        return [
            row("deliveries", text),
            row(
                "latency",
                Self.latency(deliveries.latencies) + "  from when due"
                    + (error > 0 ? ", error ≤ \(Self.percent(error, digits: 2))" : "")),
        ]
    }

    private static func text(_ storm: Storm) -> String {
        var text = "\(number(storm.back)) of \(number(storm.cut)) back"
        if let back = storm.backSeconds { text += " after \(number(back)) s" }
        text += storm.completeSeconds.map { ", complete after \(number($0)) s" } ?? ", not complete"
        return text
            + "; attempts a second: \(number(storm.peakPerSecond)) at most, \(number(storm.meanPerSecond)) on average"
    }

    private static func latency(_ sketch: Sketch) -> String {
        guard !sketch.isEmpty else { return "none" }
        let parts = quantiles.map { name, q in
            "\(name == "p999" ? "p99.9" : name) \(number(Double(sketch.quantile(q) ?? 0) / 1e6))"
        }
        return parts.joined(separator: "  ") + "  max \(number(Double(sketch.max) / 1e6)) ms"
    }

    private func row(_ name: String, _ text: String) -> String {
        name + String(repeating: " ", count: max(1, 13 - name.count)) + text
    }

    // MARK: Numbers

    static func percent(_ share: Double, digits: Int = 0) -> String {
        let scale = digits == 2 ? 100.0 : 1
        return "\(number((share * 100 * scale).rounded() / scale)) %"
    }

    /// With thousands apart.
    static func number(_ value: Int) -> String {
        let digits = String(abs(value))
        var text = ""
        for (index, digit) in digits.enumerated() {
            if index > 0, (digits.count - index) % 3 == 0 { text.append(",") }
            text.append(digit)
        }
        return (value < 0 ? "-" : "") + text
    }

    /// Three digits, or all of those before the point.
    static func number(_ value: Double) -> String {
        let size = abs(value)
        guard size < 1e15 else { return "\(value)" }
        if value == value.rounded() || size >= 100 { return number(Int(value.rounded())) }
        let scale = size >= 10 ? 10.0 : size >= 1 ? 100 : 1_000
        let scaled = Int((size * scale).rounded())
        let (whole, part) = scaled.quotientAndRemainder(dividingBy: Int(scale))
        var digits = String(Int(scale) + part).dropFirst()
        while digits.hasSuffix("0") { digits.removeLast() }
        return (value < 0 ? "-" : "") + number(whole) + (digits.isEmpty ? "" : "." + digits)
    }
}
