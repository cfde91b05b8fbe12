import Telemetry
import TestSupport

// Feeds what comes from outside, mutated, to the code that reads it:
//
//     TelemetryFuzz [--inputs N] [--seed S] [--from I]
//
// Each input depends on the seed and its number alone: `--from I --inputs 1` repeats one. Beyond "no crash", whatever
// is accepted must serialise to something that is accepted and equal, within its limits. Prints a line for each target:
// its name, inputs, and how many were accepted. Exits with 1 at the first that breaks a rule, 64 for wrong usage.

struct Options {
    var inputs: UInt64 = 100_000
    var seed: UInt64 = 1
    var from: UInt64 = 0

    init?(_ arguments: [String]) {
        var arguments = arguments[...]
        while let name = arguments.popFirst() {
            guard let text = arguments.popFirst(), let value = UInt64(text) else { return nil }
            switch name {
            case "--inputs": inputs = value
            case "--seed": seed = value
            case "--from": from = value
            default: return nil
            }
        }
    }
}

guard let options = Options(Array(CommandLine.arguments.dropFirst())) else {
    tell("usage: TelemetryFuzz [--inputs N] [--seed S] [--from I]", to: 2)
    exitProcess(64)
}

let targets = FuzzTarget.all
var accepted = [UInt64](repeating: 0, count: targets.count)
var tried = accepted
var mutator = Mutator()
for number in options.from..<options.from &+ options.inputs {
    let index = Int(number % UInt64(targets.count))
    let target = targets[index]
    mutator.random = SeededGenerator(options.seed &* 0x9E37_79B9_7F4A_7C15 ^ number)
    let input = mutator.mutated(target.corpus)
    do {
        tried[index] += 1
        if try target.check(input) { accepted[index] += 1 }
    } catch {
        tell("\(target.name): \(error)", to: 2)
        tell("input of --seed \(options.seed) --from \(number) --inputs 1:", to: 2)
        tell(String(decoding: input, as: UTF8.self).debugDescription, to: 2)
        exitProcess(1)
    }
}
for (index, target) in targets.enumerated() { tell("\(target.name) \(tried[index]) \(accepted[index])", to: 1) }
