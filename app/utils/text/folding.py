"""Folding: the form in which texts are compared if case makes no difference.

The functions `fold` and `fold_email` of the database (revision 0010) fold in the same way, with a copy of the table.
Indexes are built on them, so a change of the table needs a revision with its own copy, which builds these indexes anew.

The result depends neither on the locale of a database nor on a language. PostgreSQL and Python agree in the characters
of Unicode 14.0, which the oldest supported versions of both have; `tests/utils/test_folding.py` compares them all. A
later character keeps its case, and a version of PostgreSQL or Python may not know that it has a compatibility form.
"""

import unicodedata

# The simple lower-case mappings of Unicode 14.0, for characters without a canonical decomposition, and the final sigma:
# FIRST[-LAST]>LOWER. In a range with LOWER = FIRST + 1, upper and lower case alternate.
_LOWER_CASE = """
41-5A>61 C6>E6 D0>F0 D8>F8 DE>FE 110>111 126>127 132>133 13F-141>140 14A>14B 152>153 166>167 181>253 182-184>183
186>254 187>188 189-18A>256 18B>18C 18E>1DD 18F>259 190>25B 191>192 193>260 194>263 196>269 197>268 198>199 19C>26F
19D>272 19F>275 1A2-1A4>1A3 1A6>280 1A7>1A8 1A9>283 1AC>1AD 1AE>288 1B1-1B2>28A 1B3-1B5>1B4 1B7>292 1B8>1B9 1BC>1BD
1C4>1C6 1C5>1C6 1C7>1C9 1C8>1C9 1CA>1CC 1CB>1CC 1E4>1E5 1F1>1F3 1F2>1F3 1F6>195 1F7>1BF 21C>21D 220>19E 222-224>223
23A>2C65 23B>23C 23D>19A 23E>2C66 241>242 243>180 244>289 245>28C 246-24E>247 370-372>371 376>377 37F>3F3
391-3A1>3B1 3A3-3A9>3C3 3C2>3C3 3CF>3D7 3D8-3EE>3D9 3F4>3B8 3F7>3F8 3F9>3F2 3FA>3FB 3FD-3FF>37B 402>452 404-406>454
408-40B>458 40F>45F 410-418>430 41A-42F>43A 460-474>461 478-480>479 48A-4BE>48B 4C0>4CF 4C3-4CD>4C4 4D4>4D5 4D8>4D9
4E0>4E1 4E8>4E9 4F6>4F7 4FA-52E>4FB 531-556>561 10A0-10C5>2D00 10C7>2D27 10CD>2D2D 13A0-13EF>AB70 13F0-13F5>13F8
1C90-1CBA>10D0 1CBD-1CBF>10FD 1E9E>DF 1EFA-1EFE>1EFB 2132>214E 2160-216F>2170 2183>2184 24B6-24CF>24D0
2C00-2C2F>2C30 2C60>2C61 2C62>26B 2C63>1D7D 2C64>27D 2C67-2C6B>2C68 2C6D>251 2C6E>271 2C6F>250 2C70>252 2C72>2C73
2C75>2C76 2C7E-2C7F>23F 2C80-2CE2>2C81 2CEB-2CED>2CEC 2CF2>2CF3 A640-A66C>A641 A680-A69A>A681 A722-A72E>A723
A732-A76E>A733 A779-A77B>A77A A77D>1D79 A77E-A786>A77F A78B>A78C A78D>265 A790-A792>A791 A796-A7A8>A797 A7AA>266
A7AB>25C A7AC>261 A7AD>26C A7AE>26A A7B0>29E A7B1>287 A7B2>29D A7B3>AB53 A7B4-A7C2>A7B5 A7C4>A794 A7C5>282
A7C6>1D8E A7C7-A7C9>A7C8 A7D0>A7D1 A7D6-A7D8>A7D7 A7F5>A7F6 FF21-FF3A>FF41 10400-10427>10428 104B0-104D3>104D8
10570-1057A>10597 1057C-1058A>105A3 1058C-10592>105B3 10594-10595>105BB 10C80-10CB2>10CC0 118A0-118BF>118C0
16E40-16E5F>16E60 1E900-1E921>1E922
"""


def _pairs() -> list[tuple[int, int]]:
    """Return the code point of each letter in upper case, and that of the letter in lower case."""
    pairs = []
    for run in _LOWER_CASE.split():
        letters, lower = run.split(">")
        first, _, last = letters.partition("-")
        offset = int(lower, 16) - int(first, 16)
        step = 2 if offset == 1 else 1
        pairs += [(code, code + offset) for code in range(int(first, 16), int(last or first, 16) + 1, step)]
    return pairs


LOWER_CASE = dict(_pairs())


def fold(text: str) -> str:
    """Return a text in NFKC (UAX #15) and lower case, with the ordinary sigma for a final one.

    This is the form in which codes, names and other texts are compared. It may be longer than the text. Folding a
    folded text does not change it.
    """
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFKD", text).translate(LOWER_CASE))


def fold_email(text: str) -> str:
    """Return an e-mail address in NFC and lower case, with the ordinary sigma for a final one.

    Compatibility forms, such as ligatures and letters of full width, stay different.
    """
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).translate(LOWER_CASE))
