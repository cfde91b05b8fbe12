#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

enum SystemReason {
    /// Of this thread.
    static var last: CInt { errno }
    static func clear() { errno = 0 }

    /// A full disk, a quota, or a limit on a file's size.
    static func isLackOfSpace(_ reason: CInt) -> Bool {
        reason == ENOSPC || reason == EDQUOT || reason == EFBIG
    }

    static func describe(_ reason: CInt) -> String {
        String(cString: strerror(reason))
    }
}
