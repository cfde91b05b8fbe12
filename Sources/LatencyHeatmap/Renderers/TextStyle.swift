extension HeatmapText {
    /// How levels are shown. The number is always there, and a mark beside it: colour is never the only sign.
    public struct Style: Sendable, Equatable, CaseIterable {
        public var colours: Colours
        public var marks: Marks

        public init(colours: Colours = .none, marks: Marks = .letters) {
            self.colours = colours
            self.marks = marks
        }

        /// Numbers and letters only.
        public static let plain = Style()
        /// With the colours that nearly every terminal has.
        public static let ansi = Style(colours: .ansi256)
        /// With 🟢🟡🟠🔴, for chats and tickets.
        public static let emoji = Style(marks: .emoji)

        public static var allCases: [Style] {
            Colours.allCases.flatMap { colours in Marks.allCases.map { Style(colours: colours, marks: $0) } }
        }
    }

    public enum Colours: String, Sendable, CaseIterable {
        case none
        case ansi16 = "16"
        case ansi256 = "256"
        case truecolor

        /// Green stays on the terminal's own background, so that what is slow stands out.
        func paint(_ level: LatencyLevel) -> String {
            switch (self, level) {
            case (.none, _): ""
            case (.ansi16, .green): "\u{1B}[32m"
            case (.ansi16, .yellow): "\u{1B}[33m"
            case (.ansi16, .orange): "\u{1B}[35m"
            case (.ansi16, .red): "\u{1B}[1;31m"
            case (.ansi256, .green): "\u{1B}[38;5;72m"
            case (.ansi256, .yellow): "\u{1B}[38;5;235;48;5;222m"
            case (.ansi256, .orange): "\u{1B}[38;5;235;48;5;215m"
            case (.ansi256, .red): "\u{1B}[1;38;5;231;48;5;160m"
            case (.truecolor, .green): "\u{1B}[38;2;63;158;116m"
            case (.truecolor, .yellow): "\u{1B}[38;2;61;48;0;48;2;245;219;130m"
            case (.truecolor, .orange): "\u{1B}[38;2;51;26;0;48;2;240;158;86m"
            case (.truecolor, .red): "\u{1B}[1;38;2;255;255;255;48;2;190;48;34m"
            }
        }
    }

    public enum Marks: String, Sendable, CaseIterable {
        case letters, blocks, emoji

        func mark(_ level: LatencyLevel) -> String {
            switch self {
            case .letters: String(level.letter)
            case .blocks: ["▁", "▃", "▅", "█"][level.number]
            case .emoji: ["🟢", "🟡", "🟠", "🔴"][level.number]
            }
        }
    }
}

extension LatencyLevel {
    var number: Int {
        switch self {
        case .green: 0
        case .yellow: 1
        case .orange: 2
        case .red: 3
        }
    }
}
