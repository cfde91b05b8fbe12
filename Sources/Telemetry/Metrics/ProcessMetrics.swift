#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

extension MetricRegistry {
    /// The `process_*` metrics under the names that every Prometheus client uses. Read from `/proc` at each render;
    /// where `/proc` is missing a metric has no sample.
    public func registerProcessMetrics() {
        observe("process_cpu_seconds_total", type: .counter, help: "User and system CPU time spent.") { emitter in
            if let time = ProcessReading.cpuNanoseconds() { emitter.emit(nanoseconds: time) }
        }
        observe("process_resident_memory_bytes", type: .gauge, help: "Memory that is resident.") { emitter in
            if let bytes = ProcessReading.memory()?.resident { emitter.emit(bytes) }
        }
        observe("process_virtual_memory_bytes", type: .gauge, help: "Virtual memory size.") { emitter in
            if let bytes = ProcessReading.memory()?.virtual { emitter.emit(bytes) }
        }
        observe("process_open_fds", type: .gauge, help: "Open file descriptors.") { emitter in
            if let count = ProcessReading.openDescriptors() { emitter.emit(count) }
        }
        observe("process_max_fds", type: .gauge, help: "Most file descriptors that may be open.") { emitter in
            if let count = ProcessReading.descriptorLimit() { emitter.emit(count) }
        }
        let start = ProcessReading.startUnixNano()
        observe("process_start_time_seconds", type: .gauge, help: "Start of the process in Unix time.") { emitter in
            if let start { emitter.emit(nanoseconds: start) }
        }
        observe("process_threads", type: .gauge, help: "Threads.") { emitter in
            if let count = ProcessReading.threads() { emitter.emit(count) }
        }
    }
}

/// One reading each; nil where the system does not tell.
enum ProcessReading {
    static func cpuNanoseconds() -> UInt64? {
        var time = timespec()
        guard clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time) == 0 else { return nil }
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }

    /// From `/proc/self/statm`: sizes in pages, the first virtual, the second resident.
    static func memory() -> (virtual: UInt64, resident: UInt64)? {
        guard let text = file("/proc/self/statm") else { return nil }
        let fields = text.split(separator: " ")
        let page = UInt64(sysconf(Int32(_SC_PAGESIZE)))
        guard fields.count > 1, let virtual = UInt64(fields[0]), let resident = UInt64(fields[1]) else { return nil }
        return (virtual * page, resident * page)
    }

    static func openDescriptors() -> Int? {
        // Linux 6.2 and later tell the number of entries as the directory's size; before, they must be counted.
        var status = stat()
        if stat("/proc/self/fd", &status) == 0, status.st_size > 0 { return Int(status.st_size) }
        guard let directory = opendir("/proc/self/fd") else { return nil }
        defer { closedir(directory) }
        var count = 0
        while let entry = readdir(directory) {
            // "." and ".." begin with a dot, descriptors with a digit; the directory's own descriptor is one of them.
            if entry.pointee.d_name.0 != 0x2E { count += 1 }
        }
        return max(0, count - 1)
    }

    static func descriptorLimit() -> UInt64? {
        var limit = rlimit()
        #if canImport(Glibc)
            let resource = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
        #else
            let resource = RLIMIT_NOFILE
        #endif
        guard getrlimit(resource, &limit) == 0 else { return nil }
        return UInt64(limit.rlim_cur)
    }

    static func threads() -> Int? {
        statFields().flatMap { $0.count > 17 ? Int($0[17]) : nil }
    }

    /// Boot time plus the ticks from boot to the start of the process.
    static func startUnixNano() -> UInt64? {
        guard let fields = statFields(), fields.count > 19, let ticks = UInt64(fields[19]),
            let boot = file("/proc/stat")?.split(separator: "\n").first(where: { $0.hasPrefix("btime ") }),
            let seconds = UInt64(boot.dropFirst("btime ".count))
        else { return nil }
        let perSecond = UInt64(max(1, sysconf(Int32(_SC_CLK_TCK))))
        return seconds * 1_000_000_000 + ticks * 1_000_000_000 / perSecond
    }

    /// The fields of `/proc/self/stat` from the third (state) on: the second, the command's name in parentheses, may
    /// hold spaces and parentheses itself.
    private static func statFields() -> [Substring]? {
        guard let text = file("/proc/self/stat"), let end = text.lastIndex(of: ")") else { return nil }
        return text[text.index(after: end)...].split(whereSeparator: { $0 == " " || $0 == "\n" })
    }

    private static func file(_ path: String) -> String? {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var bytes: [UInt8] = []
        while bytes.count < 1 << 20 {
            let count = withUnsafeTemporaryAllocation(byteCount: 4096, alignment: 1) { buffer -> Int in
                let count = read(descriptor, buffer.baseAddress, buffer.count)
                if count > 0 { bytes.append(contentsOf: buffer.prefix(count)) }
                return count
            }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { break }
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}
