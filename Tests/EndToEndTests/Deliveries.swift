import Foundation
import TestSupport

/// The answer of `GET /v1/events/{id}/deliveries`.
struct Deliveries: Decodable {
    struct Group: Decodable {
        let group: String
        let received, acknowledged, written, behind, closed, filtered, not_connected: Int
    }

    struct Row: Decodable {
        let device: String?
        let group: String?
        let status: String
        let written_ms: Double?
        let acknowledged_ms: Double?
        let received_ms: Double?
        let clock_offset_ms: Double?
        let clock_uncertainty_ms: Double?
        let places_behind: Int?
        let written_at, received_at, closed_at: String?
        let written_at_is: String?
        let closed_reason: String?
        let replay: Bool?
        let writes: Int?
    }

    struct Gap: Decodable {
        let from, until: String
    }

    let id: String
    let topic: String
    let accepted_at: String
    let known_since: String?
    let gaps: [Gap]?
    let groups: [Group]
    let devices: [Row]
    let next: String?

    subscript(device: String) -> Row? { devices.first { $0.device == device } }
}

extension IsothermProcess {
    func deliveries(
        _ id: String, _ query: String = "", fields: [(String, String)] = []
    ) throws -> Deliveries {
        let reply = try HTTP.get("/v1/events/\(id)/deliveries\(query)", port: port, fields: fields)
        guard reply.status == 200 else { throw Wait.TimedOut(description: "\(reply.status) \(reply.body)") }
        return try JSONDecoder().decode(Deliveries.self, from: Data(reply.body.utf8))
    }
}
