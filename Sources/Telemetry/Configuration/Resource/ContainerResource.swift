/// `container.id`, from what a process can see of its own control group and mounts.
///
/// A line of `/proc/self/cgroup` is `number:controllers:path`. In the path of a container, one part holds its id, 64
/// hexadecimal digits:
///
///     /docker/ID                                             Docker, cgroupfs
///     /system.slice/docker-ID.scope                          Docker, systemd
///     /kubepods.slice/…/cri-containerd-ID.scope              containerd
///     /system.slice/containerd.service/…:cri-containerd:ID   containerd, its own service's slice
///     /kubepods.slice/…/crio-ID.scope                        CRI-O
///     /machine.slice/libpod-ID.scope/container               Podman
///     /ecs/TASK/ID-NUMBER                                    Amazon ECS on Fargate; the id has 32 digits
///
/// Version 2 hides the path in a namespace (`0::/`). Then the files that the engine mounts into the container tell, in
/// `/proc/self/mountinfo`: `number parent device ROOT POINT options … - type source options`.
enum ContainerResource {
    /// - Parameter isInPod: in a pod the mounted files are mostly those of its sandbox, which is another container. No
    ///   id is better than that one.
    static func id(cgroup: String, mountinfo: String, isInPod: Bool) -> String? {
        for line in cgroup.split(whereSeparator: \.isNewline) {
            let fields = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
            if fields.count == 3, let id = id(path: fields[2]) { return id }
        }
        let mounts = mounts(mountinfo)
        // Podman and CRI-O mount the container's own secrets.
        for mount in mounts where mount.point == "/run/secrets" {
            if let id = part(of: mount.root, after: "overlay-containers") { return id }
        }
        if isInPod { return nil }
        for mount in mounts where ["/etc/hostname", "/etc/resolv.conf", "/etc/hosts"].contains(mount.point) {
            if let id = part(of: mount.root, after: "containers") ?? part(of: mount.root, after: "overlay-containers") {
                return id
            }
        }
        return nil
    }

    static func isPod(mountinfo: String) -> Bool {
        mounts(mountinfo).contains {
            podParts($0) != nil || $0.point.hasSuffix("/secrets/kubernetes.io/serviceaccount")
        }
    }

    /// The kubelet's directory for the pod, `…/pods/UID/…`, and below it `containers/NAME/HASH` mounted for the
    /// container's last words.
    static func pod(mountinfo: String) -> (uid: String?, container: String?) {
        var uid: String?
        for mount in mounts(mountinfo) {
            guard let parts = podParts(mount) else { continue }
            uid = String(parts[0])
            if parts.count == 4, parts[1] == "containers" { return (uid, String(parts[2])) }
        }
        return (uid, nil)
    }

    /// What follows `pods`, when that begins with a UID.
    private static func podParts(_ mount: Mount) -> ArraySlice<Substring>? {
        let parts = mount.root.split(separator: "/")
        guard let pods = parts.firstIndex(of: "pods"), pods + 1 < parts.count, isUUID(parts[pods + 1]) else {
            return nil
        }
        return Array(parts[(pods + 1)...])[...]
    }

    private struct Mount {
        let root: Substring
        let point: Substring
    }

    private static func mounts(_ text: String) -> [Mount] {
        text.split(whereSeparator: \.isNewline).compactMap { line in
            let fields = line.split(separator: " ", maxSplits: 5)
            return fields.count < 5 ? nil : Mount(root: fields[3], point: fields[4])
        }
    }

    private static func id(path: Substring) -> String? {
        for part in path.split(separator: "/").reversed() {
            var name = part
            if name.hasSuffix(".scope") { name = name.dropLast(6) }
            if isFargate(name) { return String(name) }
            // Podman's and CRI-O's monitor of a container is not in it.
            if name.contains("conmon") { continue }
            if let mark = name.lastIndex(where: { $0 == "-" || $0 == ":" }) { name = name[name.index(after: mark)...] }
            if isID(name) { return String(name) }
        }
        return nil
    }

    private static func part(of root: Substring, after directory: Substring) -> String? {
        let parts = root.split(separator: "/")
        guard let index = parts.firstIndex(of: directory), index + 1 < parts.count, isID(parts[index + 1]) else {
            return nil
        }
        return String(parts[index + 1])
    }

    private static func isID(_ text: Substring) -> Bool { text.utf8.count == 64 && text.utf8.allSatisfy(isHex) }

    private static func isFargate(_ text: Substring) -> Bool {
        let parts = text.split(separator: "-", omittingEmptySubsequences: false)
        return parts.count == 2 && parts[0].utf8.count == 32 && parts[0].utf8.allSatisfy(isHex)
            && (1...20).contains(parts[1].utf8.count)
            && parts[1].utf8.allSatisfy { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }
    }

    private static func isUUID(_ text: Substring) -> Bool {
        text.split(separator: "-", omittingEmptySubsequences: false).map(\.utf8.count) == [8, 4, 4, 4, 12]
            && text.utf8.allSatisfy { isHex($0) || $0 == UInt8(ascii: "-") }
    }

    private static func isHex(_ byte: UInt8) -> Bool {
        (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) || (UInt8(ascii: "a")...UInt8(ascii: "f")).contains(byte)
    }
}
