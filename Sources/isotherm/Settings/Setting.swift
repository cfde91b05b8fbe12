import EventStreams
import LatencyHeatmap
import PushPipeline
import PushServer

/// One key of the configuration: how it is written, what it means, where its value goes.
struct Setting {
    /// Dots separate the levels of the file. The environment has it in capitals, with underscores, after `ISOTHERM_`.
    let key: String
    let help: String
    let apply: (inout PushServerConfiguration, String) throws(SettingError) -> Void
    let show: (PushServerConfiguration) -> String

    var environmentName: String { "ISOTHERM_" + key.uppercased().replacing(".", with: "_") }

    /// All settings but those of single tenants and topics, in the order of the documentation.
    static func all() -> [Setting] {
        [
            Setting("listen", "address to listen on") { configuration, text throws(SettingError) in
                (configuration.host, configuration.port) = try Values.address(text)
            } show: {
                $0.host.contains(":") ? "[\($0.host)]:\($0.port)" : "\($0.host):\($0.port)"
            },
            Setting("data", "directory of the log") { configuration, text throws(SettingError) in
                configuration.store.directory = text
            } show: {
                $0.store.directory
            },
            .integer("threads", \.eventLoopThreads, "threads that serve connections; default one per core"),
            .duration("head_timeout", \.headTimeout, "longest time for a request head to come"),
            .duration("idle_timeout", \.idleTimeout, "longest time without a request on an ordinary connection"),
            .bytes("max_head_bytes", \.maxHeadBytes, "largest request head"),
            .integer("limits.connections", \.limits.connections, "most connections; 0: as open files allow"),
            .integer(
                "limits.connections_per_address", \.limits.connectionsPerAddress,
                "of one address or IPv6 /64; 0: no limit"),
            .integer("limits.streams_per_device", \.limits.streamsPerDevice, "of one device of a tenant; 0: no limit"),
            .choice(
                "limits.device_overflow", \.limits.deviceOverflow,
                "a device's stream beyond that: replace (its oldest ends) or refuse"),
            .integer("limits.head_fields", \.limits.headFields, "most fields of a request head"),
            .bytes("limits.body_rate", \.limits.bodyRate, "a body must bring so much a second"),
            .duration("limits.shed_retry", \.limits.shedRetry, "who finds no room comes back after 1 to 2 times this"),
            Setting("tls.listen", "address to listen on with TLS; empty: none") {
                configuration, text throws(SettingError) in
                guard !text.isEmpty else { return }
                (configuration.tls.host, configuration.tls.port) = try Values.address(text)
            } show: {
                guard $0.tls.isEnabled else { return "" }
                return $0.tls.host.contains(":") ? "[\($0.tls.host)]:\($0.tls.port)" : "\($0.tls.host):\($0.tls.port)"
            },
            .text("tls.certificate", \.tls.certificate, "PEM file: the certificate, then its chain"),
            .text("tls.key", \.tls.key, "PEM file: its private key"),
            .list("cors.allowed_origins", \.cors.allowedOrigins, "origins whose pages may use the server; * for any"),
            .bool("cors.allow_credentials", \.cors.allowsCredentials, "such pages may send cookies; not with *"),
            .duration("cors.max_age", \.cors.maxAge, "how long a browser may remember a preflight's answer"),

            .bytes("gateway.max_event_bytes", \.gateway.maxEventBytes, "largest event"),
            .bytes("gateway.max_batch_bytes", \.gateway.maxBatchBytes, "largest body of a batch"),
            .integer("gateway.max_batch_events", \.gateway.maxBatchEvents, "most events of a batch"),
            .choice(
                "gateway.durability", \.gateway.durability,
                "before the 202: memory, written (survives a crash of the "
                    + "process) or fsync (survives power failure)"),
            .bool("gateway.allow_anonymous", \.gateway.allowsAnonymous, "no tokens although the address is public"),
            .number(
                "gateway.quota.events_per_second", \.gateway.defaultQuota.eventsPerSecond, "open tenant; 0: no limit"),
            .optionalNumber(
                "gateway.quota.event_burst", \.gateway.defaultQuota.eventBurst, "default one second's worth"),
            .number(
                "gateway.quota.bytes_per_second", \.gateway.defaultQuota.bytesPerSecond, "open tenant; 0: no limit"),
            .optionalNumber("gateway.quota.byte_burst", \.gateway.defaultQuota.byteBurst, "default one second's worth"),
            .integer("gateway.quota.connections", \.gateway.defaultQuota.connections, "open tenant; 0: no limit"),

            .choice(
                "delivery.spans", \.delivery.spans,
                "deliveries exported as spans: summary (per event and group, with the slowest and a random one), all, none"
            ),
            .duration("delivery.heartbeat", \.delivery.heartbeatInterval, "between comments on a quiet stream"),
            .duration("delivery.retry", \.delivery.retry, "the stream's retry: field"),
            .duration("delivery.join_interval", \.delivery.joinInterval, "events within it share one send; 0ms: off"),
            .bytes("delivery.max_queued_bytes", \.delivery.maxQueuedBytes, "most bytes waiting for one connection"),
            .duration(
                "delivery.stall_timeout", \.delivery.stallTimeout, "a connection that takes nothing is closed after"),
            .integer("delivery.max_connections", \.delivery.maxConnections, "most streams"),
            .integer("delivery.max_groups", \.delivery.maxGroups, "device groups with a label of their own"),
            .integer("delivery.max_topics_per_connection", \.delivery.maxTopicsPerConnection, "topics of one stream"),
            .duration("delivery.drain_interval", \.delivery.drainInterval, "streams are closed over it on SIGTERM"),
            .integer(
                "delivery.acknowledgement_probes", \.delivery.acknowledgementProbesPerSecond,
                "questions to the kernel per second and thread about what devices acknowledged; 0: none"),
            .integer(
                "delivery.journal_broadcasts", \.delivery.journalBroadcasts,
                "events whose deliveries can be told exactly, per tenant and thread"),
            .integer(
                "delivery.journal_sessions", \.delivery.journalSessions,
                "closed streams that are remembered, per tenant and thread"),
            .integer(
                "delivery.journal_receipts", \.delivery.journalReceipts,
                "devices' receipts that are remembered, per tenant"),
            .bytes(
                "delivery.journal_bytes", \.delivery.journalBytes,
                "what is known of deliveries on the disk, per tenant; 0: in memory only"),
            .bool("delivery.after_durable", \.delivery.afterDurable, "deliver only what is as durable as asked"),

            .duration("log.retention_age", \.store.retentionAge, "older events are removed"),
            .integer("log.retention_events", \.store.retentionEvents, "most events of a tenant"),
            .bytes("log.retention_bytes", \.store.retentionBytes, "most bytes of a tenant"),
            .duration("log.idempotency_window", \.store.idempotencyWindow, "how long a key is remembered"),

            .duration("heatmap.window", \.heatmap.window, "length of the windows that are kept"),
            Setting("heatmap.retained_windows", "windows that are kept") { configuration, text throws(SettingError) in
                configuration.heatmap.retainedWindows = try Values.integer(text)
            } show: {
                $0.heatmap.retainedWindows.map(String.init) ?? ""
            },
            Setting("heatmap.lateness", "spans later than this mark a cell as revised") {
                configuration, text
                    throws(SettingError) in
                configuration.heatmap.lateness = try Values.duration(text)
            } show: {
                $0.heatmap.lateness.map(Values.text) ?? ""
            },
            .integer("heatmap.max_groups", \.heatmap.maxGroups, "rows; the rest share (other)"),
            .list(
                "heatmap.group_by", \.heatmap.groupBy, "attributes that name a received span's group; the first wins"),
            Setting("heatmap.views", "further groupings, such as service.name, tenant.id+device.group") {
                configuration, text throws(SettingError) in
                configuration.heatmap.views = try Self.views(text)
            } show: {
                $0.heatmap.views.map(\.description).joined(separator: ",")
            },
            Setting("heatmap.thresholds", "latencies above these are counted exactly; at most 4") {
                configuration, text throws(SettingError) in
                configuration.heatmap.thresholds = try Values.list(text).map { part throws(SettingError) in
                    try Values.duration(part)
                }
            } show: {
                $0.heatmap.thresholds.map(Values.text).joined(separator: ",")
            },
            Setting("heatmap.tiers", "what older windows are joined into, and how long that is kept") {
                configuration, text throws(SettingError) in
                configuration.heatmap.tiers = try Values.list(text).map { part throws(SettingError) in
                    try Self.tier(part)
                }
            } show: {
                $0.heatmap.tiers.map { "\(Values.text($0.window)):\(Values.text($0.retention))" }.joined(separator: ",")
            },
            .bytes("heatmap.memory_limit", \.heatmap.memoryLimitBytes, "most memory for cells"),
            .bool("heatmap.persist", \.persistsHeatmap, "cells are kept in the data directory"),
            Setting("heatmap.time_zone", "where windows of a day begin") { configuration, text throws(SettingError) in
                configuration.heatmap.timeZone = text
            } show: {
                $0.heatmap.timeZone
            },
            .duration("heatmap.duplicate_window", \.heatmap.duplicateWindow, "a repeated request is discarded"),
            .bytes("otlp.max_bytes", \.maxOTLPBytes, "largest body of POST /v1/traces"),
            .bytes("otlp.max_decompressed_bytes", \.maxOTLPDecompressedBytes, "the same after decompression"),
            .integer("otlp.max_requests", \.maxOTLPRequests, "requests that are read at once; others get 429"),
            .bytes("otlp.max_pending_bytes", \.maxOTLPPendingBytes, "bytes of these"),
        ]
    }

    private static func tier(_ text: String) throws(SettingError) -> HeatmapTier {
        let parts = text.split(separator: ":")
        guard parts.count == 2 else {
            throw SettingError("\"\(text)\" is no tier; write window:retention, for example 5m:7d")
        }
        return HeatmapTier(
            window: try Values.duration(String(parts[0])), retention: try Values.duration(String(parts[1])))
    }

    private static func views(_ text: String) throws(SettingError) -> [HeatmapView] {
        var views: [HeatmapView] = []
        for part in text.split(separator: ",") {
            let name = part.filter { $0 != " " }
            guard let view = HeatmapView(parsing: name) else {
                throw SettingError(
                    "heatmap.views: \"\(name)\" is neither an attribute nor a pair such as tenant.id+device.group")
            }
            views.append(view)
        }
        return views
    }

    /// Of one tenant; the key is `tenants.NAME.` and this.
    static let tenantKeys: [(key: String, help: String)] = [
        ("tokens", "bearer tokens, a list; secret"), ("events_per_second", "publish quota; 0: no limit"),
        ("event_burst", "default one second's worth"), ("bytes_per_second", "publish quota; 0: no limit"),
        ("byte_burst", "default one second's worth"), ("connections", "most streams; 0: no limit"),
    ]
}

// MARK: Kinds of values

extension Setting {
    private typealias Path<Value> = WritableKeyPath<PushServerConfiguration, Value>

    init(
        _ key: String, _ help: String,
        apply: @escaping (inout PushServerConfiguration, String) throws(SettingError) -> Void,
        show: @escaping (PushServerConfiguration) -> String
    ) {
        self.key = key
        self.help = help
        self.apply = apply
        self.show = show
    }

    private static func make<Value>(
        _ key: String, _ path: Path<Value>, _ help: String,
        _ parse: @escaping (String) throws(SettingError) -> Value, _ show: @escaping (Value) -> String
    ) -> Setting {
        Setting(key, help) { configuration, text throws(SettingError) in
            configuration[keyPath: path] = try parse(text)
        } show: {
            show($0[keyPath: path])
        }
    }

    private static func text(_ key: String, _ path: Path<String>, _ help: String) -> Setting {
        make(key, path, help, { text throws(SettingError) in text }) { $0 }
    }

    private static func integer(_ key: String, _ path: Path<Int>, _ help: String) -> Setting {
        make(key, path, help, Values.integer) { "\($0)" }
    }

    private static func bytes(_ key: String, _ path: Path<Int>, _ help: String) -> Setting {
        make(key, path, help, Values.bytes) { Values.text(bytes: $0) }
    }

    private static func duration(_ key: String, _ path: Path<Duration>, _ help: String) -> Setting {
        make(key, path, help, Values.duration) { Values.text($0) }
    }

    private static func bool(_ key: String, _ path: Path<Bool>, _ help: String) -> Setting {
        make(key, path, help, Values.bool) { "\($0)" }
    }

    private static func number(_ key: String, _ path: Path<Double>, _ help: String) -> Setting {
        make(key, path, help, Values.number) { "\($0)" }
    }

    private static func optionalNumber(_ key: String, _ path: Path<Double?>, _ help: String) -> Setting {
        make(key, path, help, { text throws(SettingError) in try Values.number(text) }) { $0.map { "\($0)" } ?? "" }
    }

    private static func list(_ key: String, _ path: Path<[String]>, _ help: String) -> Setting {
        make(key, path, help, { text throws(SettingError) in Values.list(text) }) { $0.joined(separator: ",") }
    }

    private static func choice<Value: RawRepresentable & CaseIterable>(
        _ key: String, _ path: Path<Value>, _ help: String
    ) -> Setting where Value.RawValue == String {
        make(
            key, path, help,
            { text throws(SettingError) in
                guard let value = Value(rawValue: text) else {
                    let known = Value.allCases.map(\.rawValue).joined(separator: ", ")
                    throw SettingError("\"\(text)\" is none of \(known)")
                }
                return value
            }, \.rawValue)
    }
}
