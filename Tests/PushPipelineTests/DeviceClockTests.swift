import Testing

@testable import PushPipeline

@Suite("Devices' clocks")
struct DeviceClockTests {
    private static let second: UInt64 = 1_000_000_000
    private static let noon: UInt64 = 1_795_435_200 * second

    @Test("a device that is 90 s behind is corrected to within the network's share")
    func behind() throws {
        // Accepted at noon, received 20 ms later, reported 10 ms after that, 30 ms on the way: by hand, the offset lies
        // between 90 s - 20 ms and 90 s + 30 ms.
        let device = Self.noon - 90 * Self.second
        var clock = DeviceClock()
        clock.observe(
            sentUnixNano: device + 30_000_000, receipts: [(Self.noon, device + 20_000_000)],
            nowUnixNano: Self.noon + 60_000_000)
        let estimate = try #require(clock.estimate)
        #expect(estimate.offsetNano == 90_000_000_000 + 5_000_000)
        #expect(estimate.uncertaintyNano == 25_000_000)
        #expect(
            clock.serverUnixNano(
                device + 20_000_000, acceptedUnixNano: Self.noon, nowUnixNano: Self.noon + 60_000_000)
                == Self.noon + 25_000_000)
    }

    @Test("each report narrows the bounds, and only narrows them")
    func narrows() throws {
        var clock = DeviceClock()
        let delays: [(there: UInt64, back: UInt64)] = [(80, 40), (20, 90), (50, 10), (70, 70)]
        var widths: [UInt64] = []
        for (index, delay) in delays.enumerated() {
            let accepted = Self.noon + UInt64(index) * 1_000_000
            // Half an hour ahead of the server.
            let received = accepted + delay.there * 1_000_000 + 1_800 * Self.second
            clock.observe(
                sentUnixNano: received, receipts: [(accepted, received)],
                nowUnixNano: accepted + (delay.there + delay.back) * 1_000_000)
            let estimate = try #require(clock.estimate)
            let error = estimate.offsetNano + Int64(1_800 * Self.second)
            #expect(error.magnitude <= estimate.uncertaintyNano + 1)
            widths.append(estimate.uncertaintyNano)
        }
        // (80 + 40) / 2, then 20 and 40, then 20 and 10 ms, and the drift of milliseconds.
        #expect(widths[0] == 60_000_000)
        #expect(widths[3] < 15_010_000)
        #expect(zip(widths, widths.dropFirst()).allSatisfy { $1 <= $0 + 10_000 })
    }

    @Test("with one bound only, a clock is moved as little as it must")
    func oneBound() {
        var ahead = DeviceClock()
        ahead.observe(sentUnixNano: nil, receipts: [(Self.noon, Self.noon + 7)], nowUnixNano: Self.noon + 20)
        #expect(ahead.estimate == nil && ahead.offsetNano == 0)
        var behind = DeviceClock()
        behind.observe(sentUnixNano: nil, receipts: [(Self.noon, Self.noon - 7)], nowUnixNano: Self.noon + 20)
        #expect(behind.estimate == nil && behind.offsetNano == 7)
    }

    @Test("a clock that is set anew is noticed, and what was known of it forgotten")
    func step() throws {
        var clock = DeviceClock()
        func report(_ deviceOffset: Int64, at now: UInt64) -> Bool {
            let received = UInt64(Int64(now) + deviceOffset)
            return clock.observe(
                sentUnixNano: received + 1_000_000, receipts: [(now - 1_000_000, received)],
                nowUnixNano: now + 2_000_000)
        }
        #expect(!report(0, at: Self.noon))
        #expect(!report(0, at: Self.noon + Self.second))
        #expect(report(-3_600_000_000_000, at: Self.noon + 2 * Self.second))
        #expect(abs(try #require(clock.estimate).offsetNano - 3_600_000_000_000) < 2_000_000)
    }

    @Test("times at the ends of the range do no harm")
    func extremes() {
        for sent in [0, 1, UInt64.max] {
            for received in [0, 1, UInt64.max] {
                var clock = DeviceClock()
                clock.observe(sentUnixNano: sent, receipts: [(Self.noon, received)], nowUnixNano: Self.noon + 1)
                clock.observe(sentUnixNano: received, receipts: [(Self.noon, sent)], nowUnixNano: .max)
                let time = clock.serverUnixNano(
                    received, acceptedUnixNano: Self.noon, nowUnixNano: Self.noon + Self.second)
                #expect((Self.noon...Self.noon + Self.second).contains(time))
            }
        }
    }

    @Test("too many devices: those heard of longest ago are forgotten")
    func bounded() {
        let clocks = DeviceClocks(limit: 8)
        for number in 1...100 {
            _ = clocks.observe(
                device: "d\(number)", sentUnixNano: Self.noon, receipts: [], nowUnixNano: Self.noon + 5)
        }
        // What was known of the last one narrows what is learnt now; of the first nothing is left.
        let last = clocks.observe(device: "d100", sentUnixNano: nil, receipts: [(10, 10)], nowUnixNano: Self.noon + 6)
        #expect(last.clock.estimate != nil)
        let first = clocks.observe(device: "d1", sentUnixNano: nil, receipts: [(10, 10)], nowUnixNano: Self.noon + 6)
        #expect(first.clock.estimate == nil)
    }
}
