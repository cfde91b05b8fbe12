/// Columns that text takes in a terminal: two for East Asian wide characters and emoji, none for combining marks.
/// https://www.unicode.org/reports/tr11/
enum TextWidth {
    static func of(_ text: some StringProtocol) -> Int {
        if text.utf8.allSatisfy({ 0x20..<0x7F ~= $0 }) { return text.utf8.count }
        return text.reduce(0) { $0 + of($1) }
    }

    static func of(_ character: Character) -> Int {
        if character.utf8.count == 1 { return 1 }
        var width = 0
        var isJoined = false
        for scalar in character.unicodeScalars {
            let properties = scalar.properties
            switch scalar {
            case "\u{200D}": isJoined = true
            // Parts of one picture.
            case _ where isJoined && properties.isEmoji: isJoined = false
            case _ where properties.isEmojiModifier && width > 0: break
            // Asks for the picture of what also has a plain form.
            case "\u{FE0F}": width = width == 1 ? 2 : width
            default:
                width += of(scalar)
                isJoined = false
            }
        }
        return width
    }

    private static func of(_ scalar: Unicode.Scalar) -> Int {
        if scalar.value < 0x300 || isControl(scalar) { return 1 }
        switch scalar.properties.generalCategory {
        case .nonspacingMark, .enclosingMark, .format: return 0
        default: break
        }
        switch scalar.value {
        // Vowels and finals of Hangul, written inside of the syllable.
        case 0x1160...0x11FF, 0xD7B0...0xD7FF: return 0
        // One half of a flag.
        case 0x1F1E6...0x1F1FF: return 1
        case 0x303F, 0x3248...0x324F, 0x4DC0...0x4DFF: return 1
        case 0x1100...0x115F, 0x2329...0x232A, 0x2E80...0xA4CF, 0xA960...0xA97F, 0xAC00...0xD7A3, 0xF900...0xFAFF,
            0xFE10...0xFE19, 0xFE30...0xFE6F, 0xFF00...0xFF60, 0xFFE0...0xFFE6, 0x16FE0...0x18DFF, 0x1AFF0...0x1B2FF,
            0x1F200...0x1F265, 0x20000...0x3FFFD:
            return 2
        default: return scalar.properties.isEmojiPresentation ? 2 : 1
        }
    }

    /// Without what would move a terminal's cursor, start an escape sequence or turn the text around: question marks
    /// instead.
    static func clean(_ text: String) -> String {
        if text.utf8.allSatisfy({ 0x20..<0x7F ~= $0 }) { return text }
        return String(text.map { $0.unicodeScalars.contains(where: isControl) ? "?" : $0 })
    }

    /// Cut to a width and filled with blanks.
    static func fit(_ text: String, _ width: Int) -> String {
        let cut = cut(text, width)
        return cut + blanks(width - of(cut))
    }

    /// Cut to a width, with an ellipsis where something is missing, and cleaned.
    static func cut(_ text: String, _ width: Int) -> String {
        let clean = clean(text)
        if of(clean) <= width { return clean }
        var kept = ""
        var used = 0
        for character in clean {
            let next = of(character)
            guard used + next <= width - 1 else { break }
            kept.append(character)
            used += next
        }
        return kept + "…"
    }

    static func isControl(_ scalar: Unicode.Scalar) -> Bool {
        scalar.value < 0x20 || (0x7F...0x9F).contains(scalar.value) || (0x2028...0x202E).contains(scalar.value)
            || (0x2066...0x2069).contains(scalar.value)
    }

    static func blanks(_ count: Int) -> String { String(repeating: " ", count: max(0, count)) }

    static func right(_ text: String, _ width: Int) -> String { blanks(width - of(text)) + text }
}
