#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// A thread of its own: what blocks on the disk must not hold up a shared pool.
package struct WriterThread: @unchecked Sendable {
    // A thread's name may be used by every thread.
    private let thread: pthread_t

    private final class Body {
        let run: @Sendable () -> Void

        init(_ run: @escaping @Sendable () -> Void) {
            self.run = run
        }
    }

    /// - Parameter name: at most 15 characters.
    package init(name: StaticString, _ run: @escaping @Sendable () -> Void) {
        let body = Unmanaged.passRetained(
            Body {
                Self.nameThread(name)
                run()
            }
        ).toOpaque()
        #if canImport(Darwin)
            var thread: pthread_t?
            let result = pthread_create(
                &thread, nil,
                {
                    Unmanaged<Body>.fromOpaque($0).takeRetainedValue().run(); return nil
                }, body)
            guard result == 0, let thread else { fatalError("pthread_create failed: \(result)") }
        #else
            var thread = pthread_t()
            let result = pthread_create(
                &thread, nil,
                { argument in
                    if let argument { Unmanaged<Body>.fromOpaque(argument).takeRetainedValue().run() }
                    return nil
                }, body)
            precondition(result == 0, "pthread_create failed: \(result)")
        #endif
        self.thread = thread
    }

    /// Shown by `top -H` and debuggers. `pthread_setname_np` and `prctl` are not visible to Swift.
    private static func nameThread(_ name: StaticString) {
        let descriptor = open("/proc/thread-self/comm", O_WRONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return }
        _ = write(descriptor, name.utf8Start, name.utf8CodeUnitCount)
        close(descriptor)
    }

    /// Waits for the end; returns at once on the thread itself.
    package func join() {
        if pthread_equal(thread, pthread_self()) != 0 {
            pthread_detach(thread)
        } else {
            pthread_join(thread, nil)
        }
    }
}
