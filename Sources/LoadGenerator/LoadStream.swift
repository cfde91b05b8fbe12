/// One event stream of the generator. Lives in raw memory that belongs to one reading thread.
struct LoadStream {
    enum Phase: UInt8 {
        /// Not begun, or over for good.
        case idle, over
        /// Connecting, shaking hands, and waiting for the response's head.
        case connecting, greeting, head
        case open
        /// Will be opened again at `momentNano`.
        case waiting
        /// Open, and not read any more.
        case stalled
    }

    let number: Int
    let channel: Int
    let isStalled: Bool
    var phase = Phase.idle
    var wire = Wire()
    /// Failed attempts in a row.
    var failures = 0
    var wasOpen = false
    /// When the attempt began, or when the next one does.
    var momentNano: UInt64 = 0
    /// What has come of a head that is not complete.
    var head: [UInt8] = []
    var isChunked = false
    var chunks = ChunkReader()
    /// On HTTP/2.
    var frames: FrameReader?
    var scanner = EventScanner()
    var check = SequenceCheck()
    /// For each publisher one more than the last number that came from it.
    let lanes: UnsafeMutablePointer<UInt32>

    init(number: Int, channel: Int, isStalled: Bool, publishers: Int) {
        self.number = number
        self.channel = channel
        self.isStalled = isStalled
        lanes = .allocate(capacity: publishers)
        lanes.initialize(repeating: 0, count: publishers)
    }

    func deallocate() {
        scanner.deallocate()
        lanes.deallocate()
    }
}
