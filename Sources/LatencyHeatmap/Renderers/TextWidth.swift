/// Columns that text takes in a terminal: two for East Asian wide characters and emoji, none for combining marks.
/// https://www.unicode.org/reports/tr11/
enum TextWidth {
    static func of(_ text: some StringProtocol) -> Int { text.reduce(0) { $0 + of($1) } }

    static func of(_ character: Character) -> Int {
        var width = 0
        for scalar in character.unicodeScalars { width = max(width, of(scalar)) }
        return width
    }

    private static func of(_ scalar: Unicode.Scalar) -> Int {
        switch scalar.value {
        case 0x300...0x36F, 0x200B...0x200F, 0xFE00...0xFE0F: 0
        case 0x1100...0x115F, 0x2E80...0x303E, 0x3041...0x33FF, 0x3400...0x4DBF, 0x4E00...0x9FFF, 0xA000...0xA4CF,
            0xAC00...0xD7A3, 0xF900...0xFAFF, 0xFE30...0xFE6F, 0xFF00...0xFF60, 0xFFE0...0xFFE6, 0x1F300...0x1F64F,
            0x1F680...0x1F6FF, 0x1F7E0...0x1F7EB, 0x1F900...0x1F9FF, 0x20000...0x3FFFD:
            2
        default: 1
        }
    }

    /// Cut to a width, with an ellipsis where something is missing, and filled with blanks. What would move a terminal's
    /// cursor or start an escape sequence becomes a question mark.
    static func fit(_ text: String, _ width: Int) -> String {
        let clean = String(text.map { $0.unicodeScalars.contains(where: isControl) ? "?" : $0 })
        let full = of(clean)
        if full <= width { return clean + blanks(width - full) }
        var kept = ""
        var used = 0
        for character in clean {
            let next = of(character)
            guard used + next <= width - 1 else { break }
            kept.append(character)
            used += next
        }
        return kept + "…" + blanks(width - 1 - used)
    }

    static func isControl(_ scalar: Unicode.Scalar) -> Bool {
        scalar.value < 0x20 || (0x7F...0x9F).contains(scalar.value) || (0x202A...0x202E).contains(scalar.value)
            || (0x2066...0x2069).contains(scalar.value)
    }

    static func blanks(_ count: Int) -> String { String(repeating: " ", count: max(0, count)) }

    static func right(_ text: String, _ width: Int) -> String { blanks(width - of(text)) + text }
}
