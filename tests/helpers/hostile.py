"""Names that do harm where a program takes them for more than names."""

from __future__ import annotations

HTML = "<img src=x onerror=alert(1)>"
SCRIPT = "</td></table><script>alert(1)</script>"
FORMULA = "=cmd|'/C calc'!A0"
LINK = '@HYPERLINK("http://example.com")'
SHELL = "$(touch planted)"
COMMAND = "a; touch planted; `touch planted`"
LINES = "a\nb\r\n=1+1"
QUOTES = "a'b\"c"
PATTERN = "%A %j"
MATHS = "$x^{$ \\frac"
BIDI = "\u202egpj.exe\u202c"
ESCAPE = "\x1b[2J\x07"
OPTION = "--help"

NAMES = (HTML, SCRIPT, FORMULA, LINK, SHELL, COMMAND, LINES, QUOTES, PATTERN, MATHS, BIDI, ESCAPE, OPTION)
