import Foundation
import OTLP
import TestSupport
import Testing

@testable import Telemetry

@Suite("What is found out about the process and where it runs")
struct ResourceTests {
    private func attributes(_ environment: [String: String] = [:], name: String? = nil, version: String? = nil)
        -> (values: [String: AnyValue], warnings: [String])
    {
        let (configuration, warnings) = TelemetryConfiguration.fromEnvironment(
            environment, serviceName: name, serviceVersion: version)
        let pairs = configuration.resource.attributes.map { ($0.key, $0.value) }
        return (Dictionary(uniqueKeysWithValues: pairs), warnings)
    }

    // MARK: The service

    @Test("the service's name: its own variable, then the list, then the program's, then unknown")
    func serviceName() {
        let all = ["OTEL_SERVICE_NAME": "a", "OTEL_RESOURCE_ATTRIBUTES": "service.name=b,service.namespace=shop"]
        #expect(attributes(all, name: "c").values["service.name"] == "a")
        #expect(attributes(all, name: "c").values["service.namespace"] == "shop")
        let list = ["OTEL_RESOURCE_ATTRIBUTES": "service.name=b"]
        #expect(attributes(list, name: "c").values["service.name"] == "b")
        #expect(attributes([:], name: "c").values["service.name"] == "c")
        // https://opentelemetry.io/docs/specs/semconv/resource/#service: unknown_service: and the executable's name.
        let executable = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath().lastPathComponent
        #expect(attributes().values["service.name"] == .string("unknown_service:\(executable)"))
    }

    @Test("the version of this library is never given as that of somebody else's service")
    func serviceVersion() {
        let found = attributes().values
        #expect(found["service.version"] == nil)
        #expect(found["telemetry.sdk.version"] == .string(TelemetrySDK.version))
        #expect(found["telemetry.sdk.name"] == "isotherm" && found["telemetry.sdk.language"] == "swift")
        #expect(attributes(version: "7.1").values["service.version"] == "7.1")
        #expect(
            attributes(["OTEL_RESOURCE_ATTRIBUTES": "service.version=7.2"], version: "7.1").values["service.version"]
                == "7.2")
    }

    @Test("each process is an instance of its own, unless it is told which one it is")
    func instance() throws {
        guard case .string(let one) = try #require(attributes().values["service.instance.id"]),
            case .string(let other) = try #require(attributes().values["service.instance.id"])
        else {
            Issue.record("not strings")
            return
        }
        // RFC 9562, version 4 and variant 10: xxxxxxxx-xxxx-4xxx-[89ab]xxx-xxxxxxxxxxxx.
        #expect(UUID(uuidString: one) != nil && one != other)
        #expect(Array(one)[14] == "4" && "89ab".contains(Array(one)[19]))
        #expect(
            attributes(["OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=pod-7"]).values["service.instance.id"]
                == "pod-7")
    }

    @Test("a list with an error is discarded as a whole, with a warning, and the service's name stays")
    func brokenList() {
        let (values, warnings) = attributes([
            "OTEL_RESOURCE_ATTRIBUTES": "team=a,broken,zone=%zz", "OTEL_SERVICE_NAME": "s",
        ])
        #expect(values["team"] == nil && values["zone"] == nil && values["service.name"] == "s")
        #expect(!warnings.isEmpty)
        // Percent-encoded as in W3C Baggage.
        #expect(attributes(["OTEL_RESOURCE_ATTRIBUTES": "team=a%2Cb%3Dc%20d"]).values["team"] == "a,b=c d")
    }

    // MARK: The process and the host

    @Test("process, host and system are as the system's own tools tell them")
    func system() throws {
        let found = attributes().values
        func tool(_ command: String, _ arguments: String...) throws -> AnyValue {
            .string(try Peers.run(command, arguments).text.trimmingCharacters(in: .whitespacesAndNewlines))
        }
        #expect(found["host.name"] == (try tool("uname", "-n")))
        #expect(found["process.owner"] == (try tool("id", "-un")))
        #expect(found["process.pid"] == .int(Int64(ProcessInfo.processInfo.processIdentifier)))
        #expect(found["process.parent_pid"] == .int(Int64(getppid())))
        #expect(found["process.executable.path"] == (try tool("readlink", "/proc/\(getpid())/exe")))
        #expect(found["process.command"] == .string(CommandLine.arguments[0]))
        #expect(found["process.runtime.name"] == "swift")
        let version = try Peers.run("swift", ["--version"]).text
        guard case .string(let ours) = try #require(found["process.runtime.version"]) else { return }
        #expect(version.contains("Swift version \(ours)"))
        #expect(found["os.type"] == "linux")
        #expect(found["os.description"] == (try tool("sh", "-c", ". /etc/os-release; printf %s \"$PRETTY_NAME\"")))
        #expect(found["os.version"] == (try tool("sh", "-c", ". /etc/os-release; printf %s \"$VERSION_ID\"")))
        #expect(found["process.command_args"] == nil)
    }

    @Test("detectors can be chosen; arguments, which may hold secrets, only by name")
    func chosen() {
        let variable = "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS"
        let host = attributes([variable: "host"]).values
        #expect(host["host.name"] != nil && host["os.type"] == nil && host["process.pid"] == nil)
        #expect(host["service.name"] != nil && host["telemetry.sdk.name"] != nil)
        #expect(attributes([variable: "none"]).values["host.name"] == nil)
        let all = attributes([variable: "*"]).values
        #expect(all["host.name"] != nil && all["process.pid"] != nil && all["process.command_args"] == nil)
        let arguments = attributes([variable: "command_args"]).values["process.command_args"]
        #expect(arguments == .array(CommandLine.arguments.map { .string($0) }))
        let (values, warnings) = attributes([variable: "hots, os"])
        #expect(values["os.type"] != nil && warnings.count == 1 && warnings[0].contains("hots"))
    }

    @Test("every name is one of the semantic conventions', as their Python package lists them")
    func names() throws {
        var environment = ["OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "*,command_args"]
        for name in [
            "POD_NAME", "POD_UID", "NAMESPACE_NAME", "NODE_NAME", "NODE_UID", "CONTAINER_NAME", "CLUSTER_NAME",
            "DEPLOYMENT_NAME", "STATEFULSET_NAME", "DAEMONSET_NAME", "REPLICASET_NAME", "JOB_NAME", "CRONJOB_NAME",
        ] {
            environment["K8S_\(name)"] = "x"
        }
        let found = attributes(environment, version: "1").values
        #expect(found.filter { $0.key.hasPrefix("k8s.") }.count == 13)
        let program = """
            import importlib, sys
            known = {}
            for name in "service telemetry host os process container k8s".split():
                module = importlib.import_module(f"opentelemetry.semconv._incubating.attributes.{name}_attributes")
                known |= {value: 1 for key, value in vars(module).items() if key.isupper() and isinstance(value, str)}
            from opentelemetry.semconv._incubating.attributes.host_attributes import HostArchValues
            from opentelemetry.semconv.schemas import Schemas
            print([name for name in sys.argv[1].split() if name not in known])
            print(sys.argv[2] in [value.value for value in HostArchValues])
            print(sys.argv[3] in [value.value for value in Schemas])
            """
        guard case .string(let architecture) = try #require(found["host.arch"]) else { return }
        let output = try Peers.python(
            program, [found.keys.joined(separator: " "), architecture, ResourceDetection.schemaURL])
        #expect(output.text == "[]\nTrue\nTrue\n")
    }

    @Test(
        "the processor's name is that of the conventions",
        arguments: [
            ("x86_64", "amd64"), ("aarch64", "arm64"), ("armv7l", "arm32"), ("armv6l", "arm32"), ("i686", "x86"),
            ("ppc64le", "ppc64"), ("s390x", "s390x"), ("riscv64", "riscv64"),
        ])
    func architecture(machine: String, expected: String) {
        #expect(HostResource.architecture(machine) == expected)
    }

    @Test("a machine's id has 32 hexadecimal digits, or is none")
    func machineID() {
        // machine-id(5).
        #expect(HostResource.machineID("b08dfa6083e7567a1921a715000001fb\n") == "b08dfa6083e7567a1921a715000001fb")
        for text in [
            "", "\n", "uninitialized\n", "b08dfa6083e7567a1921a715000001f", "b08dfa6083e7567a1921a715000001fbb",
        ] {
            #expect(HostResource.machineID(text) == nil)
        }
    }

    @Test("os-release is read as a shell reads it")
    func osRelease() throws {
        // The forms of os-release(5), and what /bin/sh makes of them.
        let text = #"""
            # a comment
            NAME="Debian GNU/Linux"
            VERSION_ID='12'
            PRETTY_NAME="A \"quoted\" \$name \\ \x"
            BUILD_ID=2026.11

            """#
        let release = HostResource.osRelease(text)
        let shell = try Peers.run(
            "sh",
            ["-c", ". /dev/stdin; printf '%s\\n' \"$NAME\" \"$VERSION_ID\" \"$PRETTY_NAME\" \"$BUILD_ID\""],
            input: Data(text.utf8)
        ).text.split(separator: "\n").map(String.init)
        #expect(["NAME", "VERSION_ID", "PRETTY_NAME", "BUILD_ID"].map { release[$0] } == shell)
        #expect(HostResource.operatingSystem(release: release).count == 4)
        #expect(HostResource.operatingSystem(release: [:]).isEmpty)
    }

    // MARK: Kubernetes

    @Test("the downward API's variables, the operator's, and the pod's mounts")
    func kubernetes() {
        let found = attributes([
            "K8S_POD_NAME": "shop-5d9c", "OTEL_RESOURCE_ATTRIBUTES_POD_NAME": "other", "K8S_NAMESPACE_NAME": "",
            "OTEL_RESOURCE_ATTRIBUTES_NODE_NAME": "node-1", "OTEL_RESOURCE_ATTRIBUTES": "k8s.cluster.name=west",
            "K8S_CLUSTER_NAME": "east",
        ]).values
        #expect(found["k8s.pod.name"] == "shop-5d9c" && found["k8s.node.name"] == "node-1")
        #expect(found["k8s.namespace.name"] == nil && found["k8s.cluster.name"] == "west")
        let mounted = KubernetesResource.attributes(environment: [:], mountinfo: ContainerTests.containerdPod)
        #expect(
            mounted == [
                KeyValue("k8s.pod.uid", "6c2a0e0a-9d2f-4b26-a1a5-b0ac6d2e7f11"), KeyValue("k8s.container.name", "app"),
            ])
    }
}
