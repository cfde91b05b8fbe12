import Glibc

/// A library that is used if this machine has it, and done without otherwise: looked for once, when it is first needed.
struct DynamicLibrary {
    private let handle: UnsafeMutableRawPointer

    /// The first of the names that can be loaded.
    init?(_ names: [String]) {
        for name in names {
            if let handle = dlopen(name, RTLD_NOW | RTLD_LOCAL) {
                self.handle = handle
                return
            }
        }
        return nil
    }

    /// A function of the library; nil if it has none of that name. The type must be what the library's header says.
    func function<T>(_ name: String, as type: T.Type) -> T? {
        dlsym(handle, name).map { unsafeBitCast($0, to: type) }
    }
}
