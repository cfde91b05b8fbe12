import CCrypto

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// The store's directory: held by one process at a time, and keeper of the key that signs event ids.
final class DataDirectory: Sendable {
    let path: String
    private let lockDescriptor: CInt

    var databasePath: String { path + "/log.sqlite" }
    var keyPath: String { path + "/cursor.key" }

    /// Creates the directory if need be and locks it until ``release()``.
    init(path: String) throws(StreamError) {
        self.path = path
        try Self.create(path)
        let lockPath = path + "/lock"
        let descriptor = open(lockPath, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw Self.failure("open \(lockPath)") }
        // flock, not a pid file: the kernel lets go of it however the holder dies.
        if flock(descriptor, LOCK_EX | LOCK_NB) != 0 {
            let reason = errno
            var holder = "unknown"
            if reason == EWOULDBLOCK, let bytes = Self.read(descriptor, atMost: 32) {
                holder = String(decoding: bytes.prefix { $0 >= 48 && $0 <= 57 }, as: UTF8.self)
            }
            close(descriptor)
            guard reason == EWOULDBLOCK else { throw Self.failure("lock \(lockPath)", reason) }
            throw StreamError(
                code: .incompatible,
                cause: "the data directory \(path) is in use by process \(holder); stop it or choose another directory")
        }
        let pid = Array("\(getpid())\n".utf8)
        if ftruncate(descriptor, 0) == 0 { _ = pid.withUnsafeBytes { pwrite(descriptor, $0.baseAddress, $0.count, 0) } }
        lockDescriptor = descriptor
    }

    /// With the directories above it, which are made like any others.
    private static func create(_ path: String) throws(StreamError) {
        var parent = ""
        for part in path.split(separator: "/", omittingEmptySubsequences: false).dropLast() {
            parent += part + "/"
            if parent != "/", mkdir(parent, 0o755) != 0, errno != EEXIST {
                throw failure("create \(parent) for the data directory \(path)")
            }
        }
        if mkdir(path, 0o700) != 0, errno != EEXIST { throw failure("create the data directory \(path)") }
    }

    func release() {
        // Before closing: a child that is being spawned right now still holds a copy of the descriptor.
        flock(lockDescriptor, LOCK_UN)
        close(lockDescriptor)
    }

    /// The 32 random bytes that sign event ids; created with the database, never replaced.
    func loadKey(creating: Bool) throws(StreamError) -> [UInt8] {
        if Self.size(of: keyPath) != nil { return try Self.readKey(keyPath) }
        guard errno == ENOENT else { throw Self.failure("open \(keyPath)") }
        guard creating else {
            throw StreamError(
                code: .incompatible,
                cause: "\(keyPath) is missing, so no device could resume; restore it from a backup, or write 32 random "
                    + "bytes to it and let every device start anew")
        }
        var key = [UInt8](repeating: 0, count: 32)
        guard RAND_bytes(&key, 32) == 1 else {
            throw StreamError(code: .unavailable, cause: "no random bytes for \(keyPath)")
        }
        let temporary = keyPath + ".new"
        unlink(temporary)
        let created = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard created >= 0 else { throw Self.failure("create \(temporary)") }
        let isWritten = key.withUnsafeBytes { write(created, $0.baseAddress, 32) } == 32 && fsync(created) == 0
        let reason = errno
        close(created)
        guard isWritten else { throw Self.failure("write \(temporary)", reason) }
        guard rename(temporary, keyPath) == 0 else { throw Self.failure("rename \(temporary)") }
        try sync()
        return key
    }

    static func readKey(_ path: String) throws(StreamError) -> [UInt8] {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw failure("open \(path)") }
        defer { close(descriptor) }
        guard let key = read(descriptor, atMost: 33) else { throw failure("read \(path)") }
        guard key.count == 32 else {
            throw StreamError(
                code: .incompatible,
                cause: "\(path) holds \(key.count == 33 ? "more than 32" : "\(key.count)") bytes instead of 32; "
                    + "restore it from a backup")
        }
        return key
    }

    /// Makes created and renamed files durable.
    func sync() throws(StreamError) {
        let descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw Self.failure("open \(path)") }
        defer { close(descriptor) }
        guard fsync(descriptor) == 0 else { throw Self.failure("sync \(path)") }
    }

    /// Of the database and its write-ahead log.
    var databaseBytes: Int {
        ["", "-wal", "-shm"].reduce(0) { $0 + (Self.size(of: databasePath + $1) ?? 0) }
    }

    /// nil when there is no such file.
    static func size(of path: String) -> Int? {
        var status = stat()
        return stat(path, &status) == 0 ? Int(status.st_size) : nil
    }

    static func move(_ source: String, to target: String) throws(StreamError) {
        guard rename(source, target) == 0 else { throw failure("rename \(source)") }
    }

    static func remove(_ path: String) {
        unlink(path)
    }

    /// The first bytes of a file, empty when it cannot be read.
    static func head(of path: String, count: Int) -> [UInt8] {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return [] }
        defer { close(descriptor) }
        return read(descriptor, atMost: count) ?? []
    }

    private static func read(_ descriptor: CInt, atMost count: Int) -> [UInt8]? {
        var bytes = [UInt8](repeating: 0, count: count)
        let result = bytes.withUnsafeMutableBytes { pread(descriptor, $0.baseAddress, count, 0) }
        return result < 0 ? nil : Array(bytes.prefix(result))
    }

    private static func failure(_ action: String, _ reason: CInt = errno) -> StreamError {
        StreamError(
            code: reason == ENOSPC || reason == EDQUOT ? .storageFull : .unavailable,
            cause: "could not \(action): \(String(cString: strerror(reason)))")
    }
}
