import Foundation
import LatencyHeatmap
import Synchronization
import TestSupport
import Testing

@testable import LoadGenerator

@Suite("Runs")
struct LoadRunTests {
    private func plan(_ server: FaultyServer, _ connections: Int = 3) -> LoadPlan {
        var plan = LoadPlan(
            target: LoadTarget(subscribeURL: server.url + "/{channel}", publishURL: server.url + "/{channel}"))
        plan.connections = connections
        plan.rate = 500
        plan.warmUp = .zero
        plan.duration = .milliseconds(200)
        plan.publishers = 1
        plan.rest = .zero
        return plan
    }

    @Test("a server without fault: everything comes once and in order", arguments: [false, true])
    func clean(isChunked: Bool) throws {
        var faults = FaultyServer.Faults()
        faults.isChunked = isChunked
        let server = FaultyServer(faults)
        defer { server.close() }
        var plan = plan(server, 12)
        plan.channels = 3
        plan.publishers = 4
        plan.threads = 2
        plan.warmUp = .milliseconds(100)
        let report = try LoadRun.run(plan)
        #expect(report.isClean)
        // 500 a second for 0.2 s; each goes to the 4 streams of its channel.
        #expect(report.published.due == 100 && report.published.accepted == 100)
        #expect(report.deliveries.expected == 400 && report.deliveries.received == 400)
        #expect(report.deliveries.latencies.count == 400)
        #expect(report.connections.opened == 12 && report.connections.failures.isEmpty)
        #expect(report.server?.pids == [ProcessInfo.processInfo.processIdentifier])
    }

    @Test("losses, repetitions and swaps are counted, each for every stream")
    func faults() throws {
        var faults = FaultyServer.Faults()
        faults.sends = { number in
            switch number % 10 {
            case 3: []  // lost
            case 5: [number, number]  // repeated
            case 7: []  // comes after the next
            case 8: [number, number - 1]
            default: [number]
            }
        }
        let server = FaultyServer(faults)
        defer { server.close() }
        let report = try LoadRun.run(plan(server))
        #expect(report.published.accepted == 100)
        #expect(report.deliveries.expected == 300)
        #expect(report.deliveries.lost == 30)
        #expect(report.deliveries.received == 270)
        #expect(report.deliveries.duplicates == 30)
        #expect(report.deliveries.outOfOrder == 30)
        #expect(!report.isClean)
        let text = report.text()
        #expect(text.contains("270 of 300") && text.contains("30 lost, 30 repeated, 30 out of order"))
    }

    @Test("events of another channel are not taken for deliveries")
    func misrouted() throws {
        var faults = FaultyServer.Faults()
        faults.mixesChannels = true
        let server = FaultyServer(faults)
        defer { server.close() }
        var plan = plan(server, 2)
        plan.channels = 2
        let report = try LoadRun.run(plan)
        #expect(report.deliveries.received == 100 && report.deliveries.misrouted == 100 && !report.isClean)
    }

    @Test("events that were refused are not lost, and connections that a server closes are opened again")
    func refused() throws {
        var faults = FaultyServer.Faults()
        faults.status = { $0 % 10 == 4 ? 503 : 202 }
        faults.answersPerConnection = 7
        let server = FaultyServer(faults)
        defer { server.close() }
        let report = try LoadRun.run(plan(server))
        #expect(report.published.refused == [503: 10] && report.published.accepted == 90)
        #expect(report.published.unanswered == 0)
        #expect(report.deliveries.expected == 270 && report.deliveries.received == 270 && report.deliveries.lost == 0)
        #expect(!report.isClean)
        // 3 streams, and 15 connections for 100 answers; the last one may come after the end.
        #expect((17...19).contains(server.connectionCount))
    }

    @Test("without --reconnect a stream that ends has lost the rest; with it, it resumes with its last id")
    func resuming() throws {
        var faults = FaultyServer.Faults()
        faults.closesAfter = 49
        let server = FaultyServer(faults)
        defer { server.close() }
        let lost = try LoadRun.run(plan(server))
        #expect(lost.deliveries.lost == 150 && lost.connections.ended == 3 && lost.connections.reconnects == 0)

        let another = FaultyServer(faults)
        defer { another.close() }
        var plan = plan(another)
        plan.reconnects = true
        let report = try LoadRun.run(plan)
        #expect(report.deliveries.lost == 0 && report.deliveries.received == 300 && report.deliveries.duplicates == 0)
        #expect(report.connections.ended == 3 && report.connections.reconnects == 3)
        #expect(another.resumeIDs == ["49", "49", "49"])
    }

    @Test("a storm: all are cut, come back with jitter, and are complete")
    func storm() throws {
        let server = FaultyServer()
        defer { server.close() }
        var plan = plan(server, 40)
        plan.rate = 100
        plan.duration = .milliseconds(500)
        plan.storm = true
        let report = try LoadRun.run(plan)
        let storm = try #require(report.storm)
        #expect(storm.cut == 40 && storm.back == 40)
        #expect(report.deliveries.lost == 0 && report.deliveries.duplicates == 0 && report.deliveries.received == 2_000)
        let back = try #require(storm.backSeconds)
        let complete = try #require(storm.completeSeconds)
        // The server's retry is 20 ms, and a wait at least half of that.
        #expect(back >= 0.01 && complete >= back)
        #expect(storm.peakPerSecond == 40 && storm.meanPerSecond == 40)
        #expect(report.text().contains("40 of 40 back"))
    }

    @Test("streams that are not read are open, and not part of what is measured")
    func stalled() throws {
        let server = FaultyServer()
        defer { server.close() }
        var plan = plan(server)
        plan.stalled = 2
        let report = try LoadRun.run(plan)
        #expect(report.stalledOpened == 2 && report.stalledClosed == 0)
        #expect(report.connections.opened == 3 && report.deliveries.expected == 300 && report.isClean)
        #expect(server.connectionCount == 6)
    }

    @Test("as many events as are answered, without a stream")
    func closedLoop() throws {
        let server = FaultyServer()
        defer { server.close() }
        var plan = plan(server, 0)
        plan.rate = nil
        plan.publishers = 5
        let report = try LoadRun.run(plan)
        #expect(report.published.accepted > 100 && report.published.accepted == report.published.due)
        #expect(report.published.answers.count == UInt64(report.published.accepted) && report.isClean)
        #expect(report.published.perSecond >= Double(report.published.accepted) / 0.25)
        #expect(try #require(report.serverCPUMicrosecondsPerEvent) > 0)
    }

    @Test("a server that refuses every stream is an error; one that is not there too")
    func noStreams() throws {
        var faults = FaultyServer.Faults()
        faults.answersStreams = false
        let server = FaultyServer(faults)
        defer { server.close() }
        let error = #expect(throws: LoadError.self) { try LoadRun.run(plan(server)) }
        #expect(error?.code == .refused && error?.cause.contains("status 503") == true)

        var nowhere = LoadPlan(target: .isotherm("http://127.0.0.1:1"))
        nowhere.connections = 2
        let absent = #expect(throws: LoadError.self) { try LoadRun.run(nowhere) }
        #expect(absent?.code == .refused && absent?.cause.contains("Connection refused") == true)
    }

    @Test("what was measured until an interrupt is reported")
    func interrupted() throws {
        let server = FaultyServer()
        defer { server.close() }
        var plan = plan(server)
        plan.duration = .seconds(3_600)
        let begin = ContinuousClock.now
        let report = try LoadRun.run(plan, shouldStop: { ContinuousClock.now - begin > .seconds(1) })
        #expect(report.isInterrupted && !report.isClean)
        #expect(report.deliveries.received > 0 && report.published.due < 5_000)
        #expect(report.text().contains("interrupted"))
    }

    @Test("the report as JSON has every figure with its unit in the name")
    func json() throws {
        let server = FaultyServer()
        defer { server.close() }
        var plan = plan(server)
        plan.storm = true
        plan.stalled = 1
        let report = try LoadRun.run(plan)
        let object = try #require(
            JSONSerialization.jsonObject(with: Data(report.json())) as? [String: Any])
        #expect(object["target"] as? String == "custom" && object["clean"] as? Bool == true)
        let deliveries = try #require(object["deliveries"] as? [String: Any])
        #expect(deliveries["received"] as? Int == 300 && deliveries["lost"] as? Int == 0)
        let latency = try #require(deliveries["latency"] as? [String: Any])
        for key in ["p50_ms", "p99_ms", "p999_ms", "max_ms", "relative_error"] { #expect(latency[key] is Double) }
        for key in ["connections", "published", "stalled", "storm", "server"] { #expect(object[key] is [String: Any]) }
    }

    @Test("a sketch's quantiles are those of the latencies that the server made")
    func latencies() throws {
        // Every second event waits on the server for the next one, 20 ms later.
        var faults = FaultyServer.Faults()
        faults.sends = { $0 % 2 == 0 ? [] : [$0 - 1, $0] }
        let server = FaultyServer(faults)
        defer { server.close() }
        var plan = plan(server, 1)
        plan.rate = 50
        plan.duration = .seconds(1)
        let report = try LoadRun.run(plan)
        #expect(report.deliveries.received == 50)
        // 25 of 50 waited for 20 ms at least, so the 26th is one of them or above.
        #expect(try #require(report.deliveries.latencies.quantile(0.52)) >= 20_000_000)
    }
}

/// nginx with nchan, from Debian's packages nginx and libnginx-mod-nchan.
@Suite("Runs against nchan")
struct NchanTests {
    @Test("streams on several channels of a real nginx: nothing is lost, and its CPU and memory are found by its port")
    func run() throws {
        let directory = NSTemporaryDirectory() + "isotherm-nchan-" + UUID().uuidString
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let port = Peers.freePort()
        let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map { "\($0)_temp_path \(directory)/\($0);" }
        let configuration = """
            load_module /usr/lib/nginx/modules/ngx_nchan_module.so;
            \(geteuid() == 0 ? "user root;" : "")
            worker_processes 1;
            daemon off;
            pid \(directory)/pid;
            error_log \(directory)/error.log error;
            events { worker_connections 4096; }
            http {
                access_log off;
                \(paths.joined(separator: " "))
                server {
                    listen 127.0.0.1:\(port);
                    location = /sub { nchan_subscriber eventsource; nchan_channel_id $arg_id; }
                    location = /pub { nchan_publisher; nchan_channel_id $arg_id; }
                }
            }
            """
        try configuration.write(toFile: directory + "/nginx.conf", atomically: true, encoding: .utf8)
        let nginx = try ChildProcess("/usr/sbin/nginx", ["-p", directory, "-c", directory + "/nginx.conf"])
        defer { nginx.stop() }
        try Wait.until("nginx listens: \(nginx.output)") { (try? RawConnection(port: port)) != nil }

        var plan = LoadPlan(target: .nchan("http://127.0.0.1:\(port)"))
        plan.connections = 60
        plan.channels = 3
        plan.rate = 100
        plan.warmUp = .milliseconds(200)
        plan.duration = .seconds(1)
        plan.rest = .milliseconds(100)
        let report = try LoadRun.run(plan)
        #expect(report.deliveries.expected == 2_000 && report.deliveries.received == 2_000)
        #expect(report.isClean, "\(report.text())")
        let server = try #require(report.server)
        #expect(server.pids.contains(nginx.processIdentifier) && server.pids.count == 2)
        #expect(server.cpuSeconds > 0)
        #expect(try #require(server.memoryBytes) > 1_000_000)
        // With nobody named, the master's own process brings its worker along.
        let named = try ServerProcess(pids: [nginx.processIdentifier])
        #expect(named.pids == server.pids)
        #expect(throws: LoadError.self) { try ServerProcess(pids: [Int32.max]) }
    }
}
