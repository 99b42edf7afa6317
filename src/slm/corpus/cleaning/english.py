"""English words that do not part where other words do, and marks: the tables of `words`.

Which contractions and abbreviations there are, and where they part, follows spaCy's English tokenizer (3.8, the one
that datatrove's filters count words with); a form is a fact about English, and written down by rule where there is one.
"""

from __future__ import annotations

from collections.abc import Iterator


def _listed(text: str) -> tuple[str, ...]:
    """What white space separates."""
    return tuple(text.split())


PRONOUNS = ["i", "you", "he", "she", "it", "we", "they"]
QUESTION_WORDS = ["who", "what", "when", "where", "why", "how", "there"]
"""Words before any contracted verb."""
POINTERS = ["this", "that", "these", "those"]
NEGATED_AND_HAVE = _listed("""
ca could do does did had may might must need ought sha should wo would
""")
"""Verbs before n't and n't've."""
NEGATED = ["ai", "are", "is", "was", "were", "have", "has", "dare"]
"""Verbs before n't alone."""
HAVE = ["could", "might", "must", "should", "would"]
"""Verbs before 've."""
WORDS_OF_THEIR_OWN = frozenset(
    _listed("""
Ill ill Its its Hell hell Shell shell Shed shed were Were Well well Whore whore
""")
)
"""Looking like a contraction without its apostrophe, but words."""
WHOLE = _listed("""
'S 's ‘S ‘s and/or w/o 're 'Cause 'cause 'cos 'Cos 'coz 'Coz 'cuz 'Cuz 'bout ma'am Ma'am o'clock O'clock lovin'
Lovin' havin' Havin' doin' Doin' goin' Goin' nothin' Nothin' nuthin' Nuthin' ol' Ol' somethin' Somethin' 'em 'll
'nuff 'd ' '' C++ <space> — \\t \\n \\") Ak. Ala. Apr. Ariz. Ark. Aug. Calif. Colo. Conn. Dec. Del. Feb. Fla.
Ga. Ia. Id. Ill. Ind. Jan. Jul. Jun. Kan. Kans. Ky. La. Mar. Mass. Mich. Minn. Miss. Mt. N.C. N.D. N.H. N.J.
N.M. N.Y. Neb. Nebr. Nev. Nov. Oct. Okla. Ore. Pa. S.C. Sep. Sept. Tenn. Va. Wash. Wis. Adm. Bros. co. Co. Corp.
D.C. Dr. e.g. E.g. E.G. Gen. Gov. i.e. I.e. I.E. Inc. Jr. Ltd. Md. Messrs. Mo. Mont. Mr. Mrs. Ms. a.m. p.m.
Ph.D. Prof. Rep. Rev. Sen. St. vs. v.s. a. b. c. d. e. f. g. h. i. j. k. l. m. n. o. p. q. r. s. t. u. v. w. x.
y. z. ä. ö. ü.
""")
"""Words that keep marks which would part from others."""
PARTED = _listed("""
y'|all y|all how|'d|'y How|'d|'y not|'ve not|ve Not|'ve Not|ve can|not Can|not gon|na Gon|na got|ta Got|ta
let|'s Let|'s c'm|on C'm|on
""")
"""Words that part where no rule says so."""


EMOTICONS = _listed("""
:o) (o: :() >:( >:o :* :-* (*_*) (-_-) (._.) (>_<) (^_^) (¬_¬) (ಠ_ಠ) ಠ_ಠ ಠ︵ಠ ¯\\(ツ)/¯ (╯°□°）╯︵┻━┻ ><(((*>
-_- -__- ._. 0.0 0.o o.0 o.o o.O O.o O.O 0_0 0_o o_0 o_o o_O O_o O_O v.v V.V v_v V_V ^_^ ^__^ ^___^ ;_; @_@
<.< >.< >.> <3 <33 <333 </3 :0 :1 :3 :-0 :-3 =3 8) 8-) (-8 8D 8-D xD XD xDD XDD
""")
"""Faces that are no pattern of eyes, nose and mouth."""


def exceptions() -> dict[str, tuple[str, ...]]:
    """Every word of its own kind, and its parts; with typographic apostrophes too."""
    found: dict[str, tuple[str, ...]] = {parts: (parts,) for parts in (*WHOLE, *EMOTICONS, *_faces())}
    for line in PARTED:
        found[line.replace("|", "")] = tuple(line.split("|"))
    for parts in _contractions():
        found["".join(parts)] = parts
    for hour in range(1, 13):
        for half in ("a.m.", "am", "p.m.", "pm"):
            found[f"{hour}{half}"] = (str(hour), half)
    for degree in "CFKcfk":
        found[f"°{degree}."] = ("°", degree, ".")
    for word, parts in list(found.items()):
        if "'" in word and word != "''":
            found[word.replace("'", "’")] = tuple(part.replace("'", "’") for part in parts)
    found["’’"] = ("’’",)
    return {word: parts for word, parts in found.items() if word not in WORDS_OF_THEIR_OWN}


def _faces() -> Iterator[str]:
    for mouth in (")", "))", ")))", "(", "((", "(((", "]", "}", "/", "|", "P", "p", "O", "o", ">", "X", "x", "D"):
        yield from (f":{mouth}", f":-{mouth}")
    for mouth in (")", "(", "/", "|", "D", "[", "]"):
        yield f"={mouth}"
    yield from ("(:", "(-:", "):", ")-:", "[:", "[-:", "(=", "[=", "]=", ";)", ";-)", "(;", "(-;", ";D", ";-D")
    yield from (":')", ":'-)", ":'(", ":'-(")


def _contractions() -> Iterator[tuple[str, ...]]:
    """Contractions in lower case and with a capital, each with and without its apostrophes."""
    for parts in _written_in_full():
        for first in (parts[0], parts[0].title()):
            yield (first, *parts[1:])
            yield (first, *(part.replace("'", "") for part in parts[1:]))


def _written_in_full() -> Iterator[tuple[str, ...]]:
    yield from (("i", "'m"), ("i", "'m", "a"))
    for word in (*PRONOUNS, *QUESTION_WORDS, *POINTERS):
        yield from ((word, "'ll"), (word, "'ll", "'ve"), (word, "'d"), (word, "'d", "'ve"))
    for word in ("i", "you", "we", "they", *QUESTION_WORDS, "these", "those", *HAVE):
        yield (word, "'ve")
    for word in ("you", "we", "they", *QUESTION_WORDS, "these", "those"):
        yield (word, "'re")
    for word in ("he", "she", "it", *QUESTION_WORDS, "this", "that"):
        yield (word, "'s")
    for word in NEGATED_AND_HAVE:
        yield from ((word, "n't"), (word, "n't", "'ve"))
    for word in NEGATED:
        yield (word, "n't")
