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
///     {"device": "d17", "group": "iOS-15+",
///      "receipts": [{"id": "ev_…", "received_at_unix_nano": "1795422600250000000"}]}
///
/// `receipts` may also stand in several such objects in an array, so that a gateway of many devices sends one request.
/// Each becomes a latency from the event's acceptance to the device's receipt, by the device's clock, under the stage
/// `receive`. A receipt for an id that is not known here, or dated before its event, is counted as rejected.
struct ReceiptRoute {
    let core: ServerCore
    static let maxBytes = 1024 * 1024
    static let maxReceipts = 10_000

    private struct Report: Decodable {
        var device: String?
        var group: String?
        var receipts: [Receipt]
    }

    private struct Receipt: Decodable {
        var id: String
        var receivedAtUnixNano: UInt64

        enum CodingKeys: String, CodingKey {
            case id
            case receivedAtUnixNano = "received_at_unix_nano"
        }

        init(from decoder: any Decoder) throws {
            let values = try decoder.container(keyedBy: CodingKeys.self)
            id = try values.decode(String.self, forKey: .id)
            // A string, since JSON numbers are doubles to many writers; a number where somebody sends one.
            if let text = try? values.decode(String.self, forKey: .receivedAtUnixNano) {
                guard let nano = UInt64(text) else {
                    throw DecodingError.dataCorruptedError(
                        forKey: .receivedAtUnixNano, in: values, debugDescription: "not a number")
                }
                receivedAtUnixNano = nano
            } else {
                receivedAtUnixNano = try values.decode(UInt64.self, forKey: .receivedAtUnixNano)
            }
        }
    }

    func respond(to request: Request) async throws -> Response {
        let fields = try RequestFields(request)
        let tenant = try core.gateway.directory.tenant(authorization: fields.authorization, token: fields.token)
        let channel = try core.channel(for: tenant)
        let body = try await request.body.collect(upTo: Self.maxBytes)
        let reports = try Self.parse(Array(buffer: body))
        guard reports.reduce(0, { $0 + $1.receipts.count }) <= Self.maxReceipts else {
            throw GatewayError(
                code: .batchTooLarge, cause: "more than \(Self.maxReceipts) receipts in one request; send several")
        }
        var accepted: UInt64 = 0
        var rejected: UInt64 = 0
        let recorder = core.hub.makeRecorder()
        for report in reports {
            if let group = report.group {
                try EventLabels.validate(group, named: "group", limit: EventLabels.maxGroupBytes)
            }
            let group = core.hub.groups.number(
                of: report.group ?? DeviceGroup.derive(userAgent: fields.field("user-agent")))
            for receipt in report.receipts {
                guard let event = try await event(receipt.id, channel),
                    receipt.receivedAtUnixNano >= event.acceptedUnixNano
                else {
                    rejected += 1
                    continue
                }
                accepted += 1
                recorder.received(event, tenant: tenant.name, group: group, atUnixNano: receipt.receivedAtUnixNano)
            }
        }
        core.metrics.receipts(accepted: accepted, rejected: rejected)
        var json = JSONWriter()
        json.beginObject()
        json.field("accepted", accepted)
        json.field("rejected", rejected)
        json.endObject()
        json.bytes.append(UInt8(ascii: "\n"))
        return Response.json(json.bytes, status: .accepted)
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
                    + "{\"device\":…,\"group\":…,\"receipts\":[{\"id\":…,\"received_at_unix_nano\":…}]}")
        }
    }

    private func event(_ id: String, _ channel: TenantChannel) async throws -> StoredEvent? {
        guard id.utf8.count <= 64, case .position(let offset) = channel.stream.resolve(id), offset > 0 else {
            return nil
        }
        switch channel.stream.tail(after: offset - 1, limit: 1) {
        case .events(let events): return events.first { $0.offset == offset }
        case .behind:
            return try await core.hub.readLog(channel, after: offset - 1, limit: 1, byteLimit: .max)
                .first { $0.offset == offset }
        }
    }
}
