import EventStreams
import Foundation
import Hummingbird
import HummingbirdCore
import NIOCore
import OTLP
import PushPipeline
import Telemetry

/// `POST /v1/receipts`: a device tells what it received and when.
///
///     {"device": "d17", "group": "iOS-15+", "sent_at": "2026-11-23T08:30:01.000Z",
///      "receipts": [{"id": "ev_…", "received_at": "2026-11-23T08:30:00.250Z"}]}
///
/// Times are the device's own, as RFC 3339 or, exact beyond doubt, as `sent_at_unix_nano` and `received_at_unix_nano` in
/// a string. Several such objects may stand in an array, so that a gateway of many devices sends one request. Each
/// receipt becomes a latency from the event's acceptance to the device's receipt under the stage `receive`, its clock
/// corrected by what its receipts and `sent_at` tell of it (`DeviceClock`). Whoever sends `sent_at` learns from the
/// answer by how much its clock was corrected. A receipt for an id that is not known here, or from a
/// clock that is more than a month off, is counted as rejected.
struct ReceiptRoute {
    let core: ServerCore
    static let maxBytes = 1024 * 1024
    static let maxReceipts = 10_000
    /// A clock that is further off is taken for none: 31 days.
    static let maxClockErrorNano: UInt64 = 31 * 86_400 * 1_000_000_000

    private struct Report: Decodable {
        var device: String?
        var group: String?
        var sentUnixNano: UInt64?
        var receipts: [Receipt]

        enum CodingKeys: String, CodingKey {
            case device, group, receipts
            case sentAt = "sent_at"
            case sentAtUnixNano = "sent_at_unix_nano"
        }

        init(from decoder: any Decoder) throws {
            let values = try decoder.container(keyedBy: CodingKeys.self)
            device = try values.decodeIfPresent(String.self, forKey: .device)
            group = try values.decodeIfPresent(String.self, forKey: .group)
            receipts = try values.decode([Receipt].self, forKey: .receipts)
            sentUnixNano = try DeviceTime.decode(values, nano: .sentAtUnixNano, text: .sentAt)
        }
    }

    private struct Receipt: Decodable {
        var id: String
        var receivedUnixNano: UInt64

        enum CodingKeys: String, CodingKey {
            case id
            case receivedAt = "received_at"
            case receivedAtUnixNano = "received_at_unix_nano"
        }

        init(from decoder: any Decoder) throws {
            let values = try decoder.container(keyedBy: CodingKeys.self)
            id = try values.decode(String.self, forKey: .id)
            guard let time = try DeviceTime.decode(values, nano: .receivedAtUnixNano, text: .receivedAt) else {
                throw DecodingError.keyNotFound(
                    CodingKeys.receivedAt, .init(codingPath: values.codingPath, debugDescription: "no time"))
            }
            receivedUnixNano = time
        }
    }

    func respond(to request: Request) async throws -> Response {
        let fields = try RequestFields(request)
        let tenant = try core.gateway.directory.tenant(authorization: fields.authorization, token: fields.token)
        let channel = try core.channel(for: tenant)
        let body = try await request.body.collect(upTo: Self.maxBytes)
        let receivedAt = Clock.now().unixNano
        let reports = try Self.parse(Array(buffer: body))
        guard reports.reduce(0, { $0 + $1.receipts.count }) <= Self.maxReceipts else {
            throw GatewayError(
                code: .batchTooLarge, cause: "more than \(Self.maxReceipts) receipts in one request; send several")
        }
        var accepted: UInt64 = 0
        var rejected: UInt64 = 0
        var clock: DeviceClock?
        let recorder = core.hub.makeRecorder()
        for report in reports {
            if let group = report.group {
                try EventLabels.validate(group, named: "group", limit: EventLabels.maxGroupBytes)
            }
            if let device = report.device {
                try EventLabels.validate(device, named: "device", limit: EventLabels.maxDeviceBytes)
            }
            let group = core.hub.groups.number(
                of: report.group ?? DeviceGroup.derive(userAgent: fields[.userAgent]))
            var known: [(event: StoredEvent, receivedUnixNano: UInt64)] = []
            for receipt in report.receipts {
                guard let event = try await channel.event(receipt.id, hub: core.hub),
                    max(receivedAt, receipt.receivedUnixNano) - min(receivedAt, receipt.receivedUnixNano)
                        <= Self.maxClockErrorNano
                else {
                    rejected += 1
                    continue
                }
                known.append((event, receipt.receivedUnixNano))
            }
            accepted += UInt64(known.count)
            clock = note(known, of: report, group: group, channel, recorder, atUnixNano: receivedAt)
        }
        core.metrics.receipts(accepted: accepted, rejected: rejected)
        var json = JSONWriter()
        json.beginObject()
        json.field("accepted", accepted)
        json.field("rejected", rejected)
        if let clock, reports.count == 1 { json.clock(clock.offsetNano, clock.estimate?.uncertaintyNano) }
        json.endObject()
        json.bytes.append(UInt8(ascii: "\n"))
        return Response.json(json.bytes, status: .accepted)
    }

    private func note(
        _ known: [(event: StoredEvent, receivedUnixNano: UInt64)], of report: Report, group: Int,
        _ channel: TenantChannel, _ recorder: DeliveryRecorder, atUnixNano now: UInt64
    ) -> DeviceClock {
        let bounds = known.map { (acceptedUnixNano: $0.event.acceptedUnixNano, receivedUnixNano: $0.receivedUnixNano) }
        var clock = DeviceClock()
        if let device = report.device {
            let (followed, wasSet) = channel.clocks.observe(
                device: device, sentUnixNano: report.sentUnixNano, receipts: bounds, nowUnixNano: now)
            clock = followed
            core.metrics.deviceClock(followed, wasSet: wasSet)
        } else {
            clock.observe(sentUnixNano: report.sentUnixNano, receipts: bounds, nowUnixNano: now)
        }
        var receipts: [DeviceReceipt] = []
        let groupName = core.hub.groups.name(of: group)
        for (event, receivedUnixNano) in known {
            let received = clock.serverUnixNano(
                receivedUnixNano, acceptedUnixNano: event.acceptedUnixNano, nowUnixNano: now)
            recorder.received(
                event, tenant: channel.tenant.name, group: group, device: report.device, atUnixNano: received)
            guard let device = report.device else { continue }
            receipts.append(
                DeviceReceipt(
                    offset: event.offset, device: device, group: groupName, receivedUnixNano: received,
                    clockOffsetNano: clock.offsetNano, clockUncertaintyNano: clock.estimate?.uncertaintyNano))
        }
        channel.receipts.note(receipts)
        return clock
    }

    private static func parse(_ bytes: [UInt8]) throws(GatewayError) -> [Report] {
        let decoder = JSONDecoder()
        let data = Data(bytes)
        do {
            if let reports = try? decoder.decode([Report].self, from: data) { return reports }
            return [try decoder.decode(Report.self, from: data)]
        } catch {
            throw GatewayError(
                code: .invalidBody,
                cause: "not a report of receipts: "
                    + "{\"device\":…,\"sent_at\":\"2026-11-23T08:30:01Z\",\"receipts\":[{\"id\":\"ev_…\","
                    + "\"received_at\":\"2026-11-23T08:30:00.25Z\"}]}")
        }
    }
}

/// A time of a device's clock: Unix nanoseconds in a string, since JSON numbers are doubles to many writers, or as a
/// number where somebody sends one; or RFC 3339.
private enum DeviceTime {
    static func decode<Key: CodingKey>(
        _ values: KeyedDecodingContainer<Key>, nano: Key, text: Key
    ) throws -> UInt64? {
        if values.contains(nano) {
            if let digits = try? values.decode(String.self, forKey: nano) {
                guard let time = UInt64(digits) else { throw wrong(values, nano) }
                return time
            }
            return try values.decode(UInt64.self, forKey: nano)
        }
        guard let written = try values.decodeIfPresent(String.self, forKey: text) else { return nil }
        guard let time = RFC3339.unixNano(written) else { throw wrong(values, text) }
        return time
    }

    private static func wrong<Key: CodingKey>(_ values: KeyedDecodingContainer<Key>, _ key: Key) -> DecodingError {
        .dataCorruptedError(forKey: key, in: values, debugDescription: "not a time")
    }
}
