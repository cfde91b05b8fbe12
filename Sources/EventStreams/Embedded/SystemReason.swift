#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

enum SystemReason {
    /// A full disk, a quota, or a limit on a file's size.
    static func isLackOfSpace(_ reason: CInt) -> Bool {
        reason == ENOSPC || reason == EDQUOT || reason == EFBIG
    }

    static func describe(_ reason: CInt) -> String {
        String(cString: strerror(reason))
    }
}
