import Glibc
import Telemetry
import Testing

@Suite("The process's clock")
struct ClockTests {
    private func nanoseconds(_ clock: clockid_t) -> UInt64 {
        var time = timespec()
        clock_gettime(clock, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }

    // If the wall clock were read again, its steps would move the offset; if times went through Double, they would be
    // multiples of 256 ns and the offset would jitter by as much.
    @Test("a time is the monotonic clock's plus one offset, the same for all, to the nanosecond (case 9)")
    func anchor() {
        var lowest = UInt64.min
        var highest = UInt64.max
        var last = Clock.now()
        let wall = nanoseconds(CLOCK_REALTIME)
        var odd = 0
        for _ in 0..<10_000 {
            let before = nanoseconds(CLOCK_MONOTONIC)
            let now = Clock.now()
            let after = nanoseconds(CLOCK_MONOTONIC)
            #expect(now >= last)
            last = now
            lowest = max(lowest, now.unixNano - after)
            highest = min(highest, now.unixNano - before)
            odd += now.unixNano % 256 == 0 ? 0 : 1
        }
        #expect(lowest <= highest)
        #expect(odd > 5_000)
        // The offset is the wall clock's, as it was read in this process's life.
        #expect(max(last.unixNano, wall) - min(last.unixNano, wall) < 60_000_000_000)
    }
}
