import Glibc
import OTLP

/// `process.*`.
enum ProcessResource {
    static func attributes(executable: String?) -> [KeyValue] {
        var attributes = [
            KeyValue("process.pid", .int(Int64(getpid()))),
            KeyValue("process.parent_pid", .int(Int64(getppid()))),
            KeyValue("process.runtime.name", "swift"),
            KeyValue("process.runtime.version", .string(swiftVersion)),
            KeyValue("process.runtime.description", .string("Swift \(swiftVersion), \(libraryVersion)")),
        ]
        if let executable {
            attributes.append(KeyValue("process.executable.name", .string(fileName(executable))))
            attributes.append(KeyValue("process.executable.path", .string(executable)))
        }
        if let command = CommandLine.arguments.first {
            attributes.append(KeyValue("process.command", .string(command)))
        }
        if let owner { attributes.append(KeyValue("process.owner", .string(owner))) }
        return attributes
    }

    /// Of the running program, whatever it was called by.
    static var executablePath: String? {
        var bytes = [UInt8](repeating: 0, count: 4_096)
        let count = bytes.withUnsafeMutableBytes { buffer in
            buffer.baseAddress.map { readlink("/proc/self/exe", $0.assumingMemoryBound(to: CChar.self), buffer.count) }
                ?? 0
        }
        guard count > 0 else { return CommandLine.arguments.first }
        return String(decoding: bytes[..<count], as: UTF8.self)
    }

    static func fileName(_ path: String) -> String { String(path.split(separator: "/").last ?? "") }

    private static var owner: String? {
        var entry = passwd()
        var found: UnsafeMutablePointer<passwd>?
        var buffer = [CChar](repeating: 0, count: 4_096)
        guard getpwuid_r(geteuid(), &entry, &buffer, buffer.count, &found) == 0, found != nil, let name = entry.pw_name
        else { return nil }
        return String(cString: name)
    }

    /// `glibc 2.36`
    private static var libraryVersion: String {
        var bytes = [CChar](repeating: 0, count: 64)
        confstr(Int32(_CS_GNU_LIBC_VERSION), &bytes, bytes.count)
        return String(decoding: bytes.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// Of the compiler, which is that of the runtime on Linux: they are installed as one.
    private static var swiftVersion: String {
        #if compiler(>=6.5)
            "6.5"
        #elseif compiler(>=6.4)
            "6.4"
        #elseif compiler(>=6.3)
            "6.3"
        #else
            "6.2"
        #endif
    }
}
