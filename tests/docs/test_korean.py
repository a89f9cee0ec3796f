"""The Korean pages say what the English ones say, as far as that can be seen: the same headings, code and links."""

import re

import pytest

from docs.pages import ROOT, every

PAIRS = [(ROOT / "README.md", ROOT / "README.ko.md")]
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_HANGUL = re.compile(r"[가-힣]")


@pytest.mark.parametrize(("english", "korean"), PAIRS, ids=lambda path: path.name)
def test_both_have_the_same_parts(english, korean):
    ours, theirs = english.read_text(encoding="utf-8"), korean.read_text(encoding="utf-8")
    each_other = {english.name, korean.name}
    code = [[(block.language, block.info, block.text) for block in every(page)] for page in (english, korean)]
    assert code[0] == code[1]
    levels = [re.findall(r"^(#+) ", _FENCE.sub("", text), re.M) for text in (ours, theirs)]
    assert levels[0] == levels[1]
    links = [[link for link in _LINK.findall(text) if link not in each_other] for text in (ours, theirs)]
    assert links[0] == links[1]
    assert len(_HANGUL.findall(theirs)) > len(theirs) / 10
