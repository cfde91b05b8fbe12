import TestSupport
import Testing

@testable import Telemetry

/// Samples as the engines write them: cgroup lines and mounts from opentelemetry-go #3508, opentelemetry-js #3614,
/// opentelemetry-java-instrumentation #8462 and the engines' documentation, shortened to what matters.
@Suite("The container that a process runs in")
struct ContainerTests {
    private static let id = "be522444b60caf2d3934b8b24b916a8a314f4b68d4595aa419874657e8d103e5"
    private static let other = "0f3deade416514b65143bdb917f86c290bf21b176d70d8ad8c4992469fdb28e6"

    @Test(
        "the id from a control group",
        arguments: [
            "14:name=systemd:/docker/\(id)\n13:pids:/docker/\(id)",
            "4:memory:/\(id)",
            "12:cpuset:/system.slice/docker-\(id).scope",
            "0::/system.slice/docker-\(id).scope",
            "11:devices:/kubepods/besteffort/pod9f3c6a0e-2b0b-4f1f-8b64-8d2b5d1f4a11/\(id)",
            "1:name=systemd:/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod2c2a_0e.slice/cri-containerd-\(id).scope",
            "0::/kubepods.slice/kubepods-pod9f3c6a0e.slice/crio-\(id).scope",
            "5:cpu:/system.slice/containerd.service/kubepods-burstable-pod2c2a.slice:cri-containerd:\(id)",
            "0::/machine.slice/libpod-\(id).scope/container",
            "0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-\(id).scope/container",
            "9:perf_event:/ecs/8f67e3a6-3c7f-4d8a-8f2c-3a7c1f0c9d5e/\(id)",
            "0::/../cri-containerd-\(id).scope",
            "3:cpu:/\n2:freezer:/actions_job/\(id)",
        ])
    func cgroup(text: String) {
        #expect(ContainerResource.id(cgroup: text, mountinfo: "", isInPod: false) == Self.id)
        #expect(ContainerResource.id(cgroup: text, mountinfo: "", isInPod: true) == Self.id)
    }

    @Test("Fargate's ids have 32 digits and a number")
    func fargate() {
        let task = "9c8b7a6d5e4f43218a9b0c1d2e3f4a5b"
        let text = "1:name=systemd:/ecs/\(task)/\(task)-1234567890"
        #expect(ContainerResource.id(cgroup: text, mountinfo: "", isInPod: false) == "\(task)-1234567890")
    }

    @Test(
        "no id where there is no container, or only its monitor",
        arguments: [
            "", "0::/", "0::/user.slice/user-1000.slice/session-3.scope", "0::/init.scope", "garbage", "::", "0:",
            "0::/machine.slice/libpod-conmon-\(id).scope", "0::/kubepods.slice/crio-conmon-\(id).scope",
            // A digit short, a digit long, upper case, not hexadecimal.
            "0::/docker/\(id.dropLast())", "0::/docker/\(id)0", "0::/docker/\(id.uppercased())",
            "0::/docker/\(id.dropLast())g",
        ])
    func noContainer(text: String) {
        #expect(ContainerResource.id(cgroup: text, mountinfo: "", isInPod: false) == nil)
    }

    @Test(
        "the id from mounts, where version 2 hides the group's path",
        arguments: [
            // Docker, also with a volume of its own for its data.
            "719 697 254:1 /var/lib/docker/containers/\(id)/resolv.conf /etc/resolv.conf rw,relatime - ext4 /dev/vda1 rw",
            "720 697 254:1 /docker/containers/\(id)/hostname /etc/hostname rw,relatime - ext4 /dev/vda1 rw,discard",
            // Podman, with and without root.
            "983 961 0:63 /containers/storage/overlay-containers/\(id)/userdata/hostname /etc/hostname rw - tmpfs tmpfs rw",
            "496 499 0:54 /containers/overlay-containers/\(id)/userdata/run/secrets /run/secrets rw - tmpfs tmpfs rw",
        ])
    func mounts(line: String) {
        let around = """
            1551 1543 0:183 / / rw,relatime master:88 - overlay overlay rw,lowerdir=/var/lib/docker/overlay2/l/WFC:/x
            \(line)
            663 659 0:31 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw
            """
        #expect(ContainerResource.id(cgroup: "0::/", mountinfo: around, isInPod: false) == Self.id)
        #expect(!ContainerResource.isPod(mountinfo: around))
    }

    static let containerdPod = """
        1320 1357 0:377 / / rw,relatime master:247 - overlay overlay rw,lowerdir=/var/lib/containerd/x/snapshots/154/fs
        1331 1320 259:1 /var/lib/kubelet/pods/6c2a0e0a-9d2f-4b26-a1a5-b0ac6d2e7f11/etc-hosts /etc/hosts rw - xfs /dev/nvme0n1p1 rw
        1332 1321 259:1 /var/lib/kubelet/pods/6c2a0e0a-9d2f-4b26-a1a5-b0ac6d2e7f11/containers/app/1f0c9d5e /dev/termination-log rw - xfs /dev/nvme0n1p1 rw
        1333 1320 259:1 /var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes/\(other)/hostname /etc/hostname rw - xfs /dev/nvme0n1p1 rw
        """

    @Test("in a pod the sandbox's files are not taken for the container's")
    func pods() {
        #expect(ContainerResource.isPod(mountinfo: Self.containerdPod))
        #expect(ContainerResource.id(cgroup: "0::/", mountinfo: Self.containerdPod, isInPod: true) == nil)
        // Docker under Kubernetes: the files under the sandbox's id (opentelemetry-go #3508).
        let docker =
            "664 650 254:1 /var/lib/docker/containers/\(Self.other)/hostname /etc/hostname rw - ext4 /dev/vda1 rw"
        #expect(ContainerResource.id(cgroup: "0::/", mountinfo: docker, isInPod: true) == nil)
        // CRI-O mounts the sandbox's hostname, and the container's secrets.
        let crio = """
            11 1 0:22 /containers/storage/overlay-containers/\(Self.other)/userdata/hostname /etc/hostname rw - tmpfs tmpfs rw
            12 1 0:22 /containers/storage/overlay-containers/\(Self.id)/userdata/run/secrets /run/secrets rw - tmpfs tmpfs rw
            """
        #expect(ContainerResource.id(cgroup: "0::/", mountinfo: crio, isInPod: true) == Self.id)
    }

    @Test("no text is too odd to be read")
    func fuzz() {
        var generator = SeededGenerator(11)
        let samples = [
            "0::/system.slice/docker-\(Self.id).scope\n1:a,b:/ecs/x/\(Self.id.prefix(32))-12", Self.containerdPod,
            "NAME=\"a \\\"b\"\nVERSION_ID='1'\n# c\nX=\\",
        ].map { Array($0.utf8) }
        let odd: [UInt8] = [0, 0x0A, 0x20, 0x22, 0x27, 0x2F, 0x3A, 0x3D, 0x5C, 0x2D, 0x80, 0xC3, 0xFF]
        var found = 0
        for _ in 0..<20_000 {
            var bytes = samples[Int.random(in: 0..<samples.count, using: &generator)]
            for _ in 0..<Int.random(in: 0...6, using: &generator) {
                let index = Int.random(in: 0..<bytes.count, using: &generator)
                switch Int.random(in: 0..<3, using: &generator) {
                case 0: bytes[index] = odd[Int.random(in: 0..<odd.count, using: &generator)]
                case 1: bytes.insert(odd[Int.random(in: 0..<odd.count, using: &generator)], at: index)
                default: bytes.removeSubrange(index..<min(bytes.count - 1, index + 9))
                }
            }
            let text = String(decoding: bytes, as: UTF8.self)
            if let id = ContainerResource.id(cgroup: text, mountinfo: text, isInPod: false) {
                found += 1
                #expect((34...64).contains(id.utf8.count))
            }
            _ = ContainerResource.pod(mountinfo: text)
            _ = HostResource.osRelease(text)
            _ = HostResource.machineID(text)
        }
        // Some changes leave the ids alone.
        #expect(found > 1_000)
    }
}
