import Glibc

/// A server's processes, and what the kernel says they have used. Linux's `/proc`.
struct ServerProcess: Sendable {
    let pids: [Int32]

    /// Those that were named, and their children.
    init(pids: [Int32]) throws(LoadError) {
        var found = pids
        let parents = Self.processes().compactMap { pid in Self.parent(of: pid).map { (pid, $0) } }
        var added = true
        while added {
            let children = parents.filter { found.contains($0.1) && !found.contains($0.0) }.map { $0.0 }
            found += children
            added = !children.isEmpty
        }
        self.pids = found.sorted()
        for pid in pids where Self.read("/proc/\(pid)/stat") == nil {
            throw LoadError(code: .invalidPlan, cause: "there is no process \(pid)")
        }
    }

    /// Those that hold a socket that listens on a port; nil when there is none that may be looked at.
    init?(listeningOn port: UInt16) {
        var inodes: Set<Substring> = []
        for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
            for line in (Self.read(table) ?? "").split(separator: "\n").dropFirst() {
                // sl local_address rem_address st … inode; 0A is LISTEN.
                let fields = line.split(separator: " ")
                guard fields.count > 9, fields[3] == "0A", let digits = fields[1].split(separator: ":").last,
                    UInt16(digits, radix: 16) == port
                else { continue }
                inodes.insert(fields[9])
            }
        }
        let links = Set(inodes.map { "socket:[\($0)]" })
        guard !links.isEmpty else { return nil }
        pids = Self.processes().filter { pid in
            Self.names("/proc/\(pid)/fd").contains { links.contains(Self.link("/proc/\(pid)/fd/\($0)") ?? "") }
        }.sorted()
        if pids.isEmpty { return nil }
    }

    /// User and kernel, of all their threads, in nanoseconds. Threads that have ended are not in it.
    var cpuNano: UInt64 {
        pids.reduce(0) { sum, pid in
            Self.names("/proc/\(pid)/task").reduce(sum) { sum, task in
                let text = Self.read("/proc/\(pid)/task/\(task)/schedstat") ?? ""
                return sum + (text.split(separator: " ").first.flatMap { UInt64($0) } ?? 0)
            }
        }
    }

    /// What was used since `cpuNano` was `before`; zero when threads that ended had used more.
    func cpuNano(since before: UInt64) -> UInt64 { max(cpuNano, before) - before }

    /// Proportional set size in bytes: what processes share counts once. Nil when it may not be read.
    var memoryBytes: Int? {
        var total = 0
        for pid in pids {
            guard let text = Self.read("/proc/\(pid)/smaps_rollup"),
                let line = text.split(separator: "\n").first(where: { $0.hasPrefix("Pss:") }),
                let kilobytes = line.split(separator: " ").dropFirst().first.flatMap({ Int($0) })
            else { return nil }
            total += kilobytes * 1024
        }
        return total
    }

    // MARK: /proc

    private static func processes() -> [Int32] { names("/proc").compactMap { Int32($0) } }

    private static func parent(of pid: Int32) -> Int32? {
        // pid (name) state ppid …; a name may have spaces and brackets.
        guard let text = read("/proc/\(pid)/stat"), let bracket = text.lastIndex(of: ")") else { return nil }
        return text[bracket...].split(separator: " ").dropFirst(2).first.flatMap { Int32($0) }
    }

    private static func names(_ directory: String) -> [String] {
        guard let handle = opendir(directory) else { return [] }
        defer { closedir(handle) }
        var names: [String] = []
        while let entry = readdir(handle) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if !name.hasPrefix(".") { names.append(name) }
        }
        return names
    }

    private static func link(_ path: String) -> String? {
        var bytes = [UInt8](repeating: 0, count: 256)
        let count = bytes.withUnsafeMutableBytes {
            readlink(path, $0.baseAddress!.assumingMemoryBound(to: CChar.self), $0.count)
        }
        return count > 0 ? String(decoding: bytes[..<count], as: UTF8.self) : nil
    }

    private static func read(_ path: String) -> String? {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var text: [UInt8] = []
        var block = [UInt8](repeating: 0, count: 16 << 10)
        while true {
            let count = Glibc.read(descriptor, &block, block.count)
            if count <= 0 { break }
            text += block[..<count]
        }
        return text.isEmpty ? nil : String(decoding: text, as: UTF8.self)
    }
}
