import EventStreams
import Foundation

// What is done to a log on purpose.
//
//     StreamTorture DIRECTORY DURABILITY ROUND
//
// A process to be killed: appends from four threads and tells at once what was acknowledged. A line for each event,
// written when its append has completed: `A ID NAME`. A fifth thread follows the log from its head and tells what it
// sees, durable or not: `S ID NAME`. A name is ROUND/THREAD/SERIAL, and begins the payload.
//
//     StreamTorture kills DIRECTORY DURABILITY KILLS
//
// The killer: starts such a process again and again, kills it at a random moment, and checks what it has left.
//
//     StreamTorture full DIRECTORY BYTES
//
// Appends until no file may grow beyond BYTES, or, with 0, until the file system is full; makes room, and appends again.

let arguments = CommandLine.arguments
do {
    if arguments.count == 5, arguments[1] == "kills", let durability = Durability(rawValue: arguments[3]),
        let kills = Int(arguments[4])
    {
        try Killer(directory: arguments[2], durability: durability).run(kills: kills)
    } else if arguments.count == 4, arguments[1] == "full", let limit = UInt64(arguments[3]) {
        try fillDisk(directory: arguments[2], limit: limit)
    } else if arguments.count == 4, let durability = Durability(rawValue: arguments[2]), let round = Int(arguments[3]) {
        try publishUntilKilled(directory: arguments[1], durability: durability, round: round)
    } else {
        fail("usage: StreamTorture [kills|full] DIRECTORY …, see main.swift", status: 64)
    }
} catch {
    fail("\(error)", status: 1)
}
