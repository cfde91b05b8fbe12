/// How the devices of one group behave. Their slowness is on their own side of a real socket: the network and the
/// device's work are a wait before an event counts as received, and slow readers leave bytes in the socket.
struct DeviceProfile {
    let group: String
    /// Of all devices, in parts; the shares of all groups are added up.
    let share: Int
    /// Time from the socket to the application: this, and up to twice `jitterMilliseconds` more.
    let baseMilliseconds: Double
    let jitterMilliseconds: Double
    /// One event in so many is slower by the factor five; 0: none.
    var spikeEvery = 0
    /// Reads only every so many milliseconds; 0: at once.
    var readPauseMilliseconds = 0
    /// Loses its connection every so many seconds, and resumes with the last id; 0: never.
    var breakSeconds = 0.0

    static let all = [
        DeviceProfile(group: "iOS-18", share: 4, baseMilliseconds: 12, jitterMilliseconds: 8),
        DeviceProfile(group: "iOS-15", share: 3, baseMilliseconds: 45, jitterMilliseconds: 20),
        DeviceProfile(group: "Android-15", share: 4, baseMilliseconds: 20, jitterMilliseconds: 15),
        DeviceProfile(group: "Android-12", share: 3, baseMilliseconds: 90, jitterMilliseconds: 35, spikeEvery: 40),
        DeviceProfile(group: "Web-Chrome", share: 3, baseMilliseconds: 8, jitterMilliseconds: 5),
        DeviceProfile(group: "Car-EU", share: 2, baseMilliseconds: 120, jitterMilliseconds: 60, breakSeconds: 6),
        DeviceProfile(
            group: "TV-slow-reader", share: 1, baseMilliseconds: 15, jitterMilliseconds: 5, readPauseMilliseconds: 400),
    ]

    /// So many devices over all groups, by their shares, at least one each.
    static func distribute(_ devices: Int) -> [(profile: DeviceProfile, count: Int)] {
        let shares = all.reduce(0) { $0 + $1.share }
        var counts = all.map { max(1, devices * $0.share / shares) }
        counts[0] += max(0, devices - counts.reduce(0, +))
        return Array(zip(all, counts)).map { ($0, $1) }
    }

    func delay(using random: inout some RandomNumberGenerator) -> Double {
        let usual = baseMilliseconds + Double.random(in: 0...2, using: &random) * jitterMilliseconds
        return spikeEvery > 0 && Int.random(in: 0..<spikeEvery, using: &random) == 0 ? usual * 5 : usual
    }
}
