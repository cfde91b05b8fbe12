import Glibc

/// State behind a lock that threads can wait on.
final class Guarded<Value>: @unchecked Sendable {  // guarded by `mutex`
    private var value: Value
    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    private let condition = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)

    init(_ value: Value) {
        self.value = value
        pthread_mutex_init(mutex, nil)
        var attributes = pthread_condattr_t()
        pthread_condattr_init(&attributes)
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
        pthread_cond_init(condition, &attributes)
        pthread_condattr_destroy(&attributes)
    }

    deinit {
        pthread_cond_destroy(condition)
        pthread_mutex_destroy(mutex)
        condition.deallocate()
        mutex.deallocate()
    }

    func withLock<Result>(_ body: (inout Value) -> Result) -> Result {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        return body(&value)
    }

    /// Nil, without waiting, where somebody else has it.
    func withLockIfFree<Result>(_ body: (inout Value) -> Result) -> Result? {
        guard pthread_mutex_trylock(mutex) == 0 else { return nil }
        defer { pthread_mutex_unlock(mutex) }
        return body(&value)
    }

    func broadcast() { pthread_cond_broadcast(condition) }

    /// Waits until `isMet`, or the deadline; for ever without one.
    func wait(until deadline: ContinuousClock.Instant?, _ isMet: (Value) -> Bool) {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        while !isMet(value) {
            guard let deadline else {
                pthread_cond_wait(condition, mutex)
                continue
            }
            let left = deadline - .now
            guard left > .zero else { return }
            var until = timespec()
            clock_gettime(CLOCK_MONOTONIC, &until)
            let nano = Int(until.tv_nsec) + Int(left.components.attoseconds / 1_000_000_000)
            until.tv_sec += Int(left.components.seconds) + nano / 1_000_000_000
            until.tv_nsec = nano % 1_000_000_000
            pthread_cond_timedwait(condition, mutex, &until)
        }
    }
}
