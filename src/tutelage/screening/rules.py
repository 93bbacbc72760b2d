"""The patterns that hold a text: what each looks for, and the words without which it need not be tried."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from tutelage.screening.text import contains_any

Topic = Literal["override", "authority", "markers", "roles", "fence", "call", "secret", "sending", "hiding"]


@dataclass(frozen=True)
class Rule:
    """hints: one of them stands in every text that the pattern can match; looking for them is much quicker."""

    topic: Topic
    reason: str
    hints: tuple[str, ...]
    pattern: re.Pattern[str]

    def hinted(self, text: str) -> bool:
        """Whether the pattern is worth trying."""
        return contains_any(text, self.hints)


def _rule(topic: Topic, reason: str, hints: str, *alternatives: str) -> Rule:
    return Rule(topic, reason, tuple(hints.split()), re.compile("|".join(alternatives), re.MULTILINE))


_GAP = r"(?:\W+\w+){0,5}?\W+"
_NEAR = r"[^.!?\n]{0,30}"
_READER = r"(?:ai|a\.i\.|assistant|(?:language )?models?|llms?|agents?|chat ?bots?|bots?|gpt\S*|claude|llama)\b"
_INSTRUCTION = r"i\w?n\w?st\w?r\w{0,3}ct\w*"  # with a letter too many or out of place
_RULES_OF_ALL_KINDS = (
    rf"(?:{_INSTRUCTION}|prompts?|rules?|guidelines?|directives?|orders|commands?|polic(?:y|ies)|constraints?|restrictions?|safeguards?|"
    r"programming|training|system messages?)\b"
)
_WHICH = (
    r"(?:\W+(?:all|any|every|each|of|the|your|my|its|these|those|this|other|previous|previously|prior|above|earlier|preceding|past|original|"
    r"initial|former|existing|current|given|system|safety|developer|and|or|content|security|everything|in|else)){0,7}\W+"
)
_IGNORE = (
    r"\b(?:ignor(?:e|ing)|disregard(?:ing)?|forget|overrid(?:e|ing)|bypass(?:ing)?|overlook|neglect|pay no attention to|set(?:ting)? aside|"
    r"discard|abandon|circumvent|(?:do not|don.?t|never|stop) (?:follow|obey)(?:ing)?)\b"
)

OVERRIDE = _rule(
    "override",
    "tells the reader to set its instructions aside",
    "ignor disregard forget overrid bypass overlook neglect attention follow obey aside discard abandon circumvent",
    _IGNORE + _WHICH + _RULES_OF_ALL_KINDS,
)

_FORGET = _rule(
    "override",
    "tells the reader to forget what it was told",
    "forget ignore disregard",
    r"\b(?:forget|ignore|disregard) (?:everything|all|anything)(?: of)?(?: that| what)? (?:above\b|before this|previous\b|prior\b|"
    r"that came before|you(?: were|.ve been| have been| have)? (?:told|taught|instructed|know|learn\w+))",
)

_NEW_PART = _rule(
    "override",
    "gives the reader new instructions or another part to play",
    "you mode jailbr instruct prompt directive orders pretend act anything",
    rf"\byou are (?:now|no longer)\b(?:\W+\w+){{0,4}}?\W+(?:{_READER}|dan\b|unrestricted|unfiltered|"
    r"jailbroken|developer mode|hacker|bound by)",
    r"\b(?:enable|enter|activate) (?:developer|debug|god|dan|admin|maintenance) mode",
    r"\bdo anything now\b",
    r"\bjailbr(?:eak|oken)\b",
    rf"\b(?:new|updated|real|true|actual|revised) (?:system )?(?:{_INSTRUCTION}|prompt|directives?|orders)\s*:",
    r"\byour (?:new|real|true|actual|only) (?:task|goal|instructions?|objective|purpose|role|mission) (?:is|are)\b",
    rf"\badhere to the following {_INSTRUCTION}",
    r"\b(?:pretend|act|behave|answer|respond)\W+(?:as if |that |like )?you (?:are|have|had|were)(?:\W+\w+)?\W+(?:no|not|without)\b"
    r"(?:\W+\w+){0,2}?\W+(?:rules|restrictions?|limits?|guidelines?|filters?|bound)",
)

_DISCLOSE = _rule(
    "override",
    "asks for the system prompt",
    "prompt instruction message",
    r"\b(?:reveal|show|print|repeat|output|display|leak|disclose|tell|give|share|send|write|copy|recite|summari[sz]e)\b"
    + _GAP
    + r"(?:(?:system|hidden|initial|original|secret|developer) (?:prompt|message|instructions?)|your (?:own )?(?:prompt|instructions))\b",
)

_OTHER_LANGUAGES = _rule(
    "override",
    "tells the reader to set its instructions aside",
    "inst anweis regel vorgab istruz consign reg talimat polece инструкц указан правил 指 规 示 命令 ルール 規 지시 명령 규칙 지침 "
    "التعليمات",
    # Spanish, French, German, Italian, Portuguese, Dutch, Polish; accents are off
    r"\b(?:ignor(?:a|ar|en|e|ez|er|iere|ieren|iert|uj|ujcie)|olvid[ae]\w*|oubli\w+|vergiss|vergesst|vergessen|missacht\w+|dimentica\w*|esquec\w+|"
    r"desconsider\w+|negeer|zignoruj\w*|zapomnij\w*)\b(?:\W+\w+){0,4}?\W+(?:instruccion\w*|reglas|instructions|consignes|regles|anweisung\w*|"
    r"regeln|vorgaben|instruktionen|istruzioni|regole|instruc\w*oes|regras|instructies|regels|instrukcj\w+|polece\w+)\b",
    r"\bonceki talimat\w+ (?:yok say|gormezden|unut|dikkate alma)",  # Turkish
    r"(?:игнориру\w+|забуд\w+|не обраща\w* внимания)(?:\W+\w+){0,4}?\W+(?:инструкц|указан|правил)\w*",
    r"(?:忽略|无视|忽視|無視|忘记|忘掉).{0,12}(?:指令|指示|规则|規則|提示|命令)",
    r"(?:指示|命令|指令|ルール|規則).{0,8}(?:無視|忘れ)",
    r"(?:지시|명령|규칙|지침).{0,8}(?:무시|잊)",
    r"تجاهل.{0,20}التعليمات",
)

_AUTHORITY = _rule(
    "authority",
    "poses as an important message to the model",
    "important attention information instruction system note message memo remind admin develop prompt secret before stop creator supervis",
    r"\bimportant (?:message|instructions?|notice|information|update) (?:from|to|for) (?:me|you|the|your)\b",
    r"<\s*/?\s*(?:important|information|system|instructions?|admin|developer|prompt|secret)\w*\s*>",
    rf"\b(?:attention\W+|(?:note|message|instructions?|memo|reminder) (?:to|for) )(?:the |any |all |every )?{_READER}",
    r"\bimportant\s*!{2,}",
    r"\bbefore you (?:can |may |do |even )*(?:solve|do|complete|start|begin|continue|answer|proceed|finish)\b[^.!?\n]{0,80}"
    r"\b(?:do|perform|carry out|execute|complete)\b[^.!?\n]{0,30}\b(?:first|following)\b",
    r"\byou (?:should|must|have to|need to) (?:immediately )?stop (?:what you|your (?:current )?(?:task|work)|immediately)",
    r"\bthis is (?:your|the system) (?:administrator|admin|developer|creator|operator|supervisor)\b",
    r"\b(?:system|admin\w*|security) override\b",
)

_MARKERS = _rule(
    "markers",
    "contains marks of a chat template",
    "<| inst] sys>> _turn> s>",
    r"<\|[^\s|<>]{1,40}\|>",
    r"\[/?inst\]",
    r"<<\s?/?sys>>",
    r"<\s?/?(?:start|end)_of_turn>",
    r"</?s>",
)

_ROLES = _rule(
    "roles",
    "speaks in the role of the system or the assistant",
    "system assistant developer",
    r"^\W{0,6}(?:system|assistant|developer)[ _]?(?:message|prompt|instructions?|note)?\W{0,3}[:)\]>]",
    r"^\W{0,2}#{2,}\W{0,3}(?:system|assistant)\b",
)

_FENCE = _rule("fence", "imitates the marks around untrusted text", "untrusted", r"<\s*/?\s*untrusted\b")

_CALL = _rule(
    "call",
    "contains a tool call",
    'tool_ toolcall function invoke "name "tool',
    r"<\s*/?\s*(?:tool|function)_?(?:call|response|result|use)s?\b",
    r"<\s*(?:invoke|function)\b[^>]{0,60}[=>]",
    r"\"(?:tool_calls?|function_call)\"\s*:",
    r"\"(?:name|tool|tool_name|function)\"\s*:\s*\"[^\"]{1,80}\"\s*,\s*\"(?:arguments|parameters|args|params|input)\"\s*:",
)

_ASKED_CALL = _rule(
    "call",
    "asks for one particular tool call",
    "tool function",
    r"\b(?:use|call|invoke|run|execute|trigger)\b"
    + _GAP
    + r"(?:tool|function)\b[^.!?\n]{0,60}\bwith\b[^.!?\n]{0,30}\b(?:arguments?|parameters?|inputs?|args)\b\s*[:={(]",
)

_THINGS = (
    r"(?:passwords?|passcodes?|passphrases?|api[ _-]?keys?|(?:secret|private|access|encryption) keys?|(?:access|auth\w*|session) tokens?|"
    r"credentials?|(?:security|verification|2fa|login|one.time) (?:codes?|passwords?)|otp|(?:credit |debit )?card (?:numbers?|details)|cvv|"
    r"passport numbers?|social security numbers?|ssn|bank account numbers?)\b(?!\s+(?:reset|link|change|policy|rules?|form|page)\b)"
)
_OTHER_WORD = r"\W+(?!(?:new|temporary|fresh|reset|one)\b)\w+"
_WHOSE = r"(?:his|her|their|all|any|every|users?.?s?|customers?.?s?|clients?.?s?|employees?.?s?|stored|saved|facebook|google|bank)"

_SECRETS = _rule(
    "secret",
    "asks for secrets to be shown or passed on",
    "passw passcode passphrase key token credential code otp card cvv passport social ssn account",
    rf"\b(?:reveal|disclose|leak|expose|exfiltrat\w+|steal|harvest|collect)\b[^.!?\n]{{0,50}}?\b{_THINGS}",
    rf"\b(?:send|forward|e?mail|post|share|tell|give|include|output|print|report)\b(?:{_OTHER_WORD}){{0,5}}?\W+{_WHOSE}(?:{_OTHER_WORD}){{0,3}}?\W+{_THINGS}",
    rf"\bask\b{_NEAR}\bfor\W+(?:the\W+)?{_WHOSE}(?:{_OTHER_WORD}){{0,3}}?\W+{_THINGS}",
)

_ADDRESS = (
    r"(?:https?://\S|www\.\w|[\w.+-]+@[\w-]+\.\w|\b[a-z]{2}\d{2}[a-z0-9]{11,30}\b|\b[a-z]{2}\d{2}(?: \d{4}){3,7}\b|\b0x[0-9a-f]{40}\b|"
    r"\bbc1[a-z0-9]{20,}|\biban\b)"
)

_SENDING = _rule(
    "sending",
    "asks for something to be sent to an address",
    "http www. @ iban 0x bc1 0 1 2 3 4 5 6 7 8 9",
    r"\b(?:send|e-?mail|forward|post|upload|transmit|submit|exfiltrate|transfer|wire|pay|leak|share|visit|invite|append|fetch|modify|add)\b"
    r"[^\n]{0,200}?" + _ADDRESS,
)

_HIDING = _rule(
    "hiding",
    "asks that something be hidden from the user",
    "telling informing notif alert mention letting tell inform reveal let secret hidden confidential delete",
    r"\bwithout (?:telling|informing|notifying|alerting|mentioning|letting)\b",
    r"\b(?:do not|don.?t|never)\s+(?:tell|inform|notify|alert|mention (?:this|it|that)|reveal (?:this|it)|let)\b[^.!?\n]{0,20}"
    r"\b(?:user|customer|client|anyone|anybody|owner|operator|person|human|them|him|her)s?\b",
    r"\bkeep (?:this|it|that) (?:a )?(?:secret|hidden|confidential)\b",
    r"\b(?:then|and|finally|afterwards),? delete\b[^.!?\n]{0,20}\b(?:you (?:have )?(?:just )?sent|(?:the )?sent (?:e-?mails?|messages?))",
)

RULES = (
    OVERRIDE,
    _FORGET,
    _NEW_PART,
    _DISCLOSE,
    _OTHER_LANGUAGES,
    _AUTHORITY,
    _MARKERS,
    _ROLES,
    _FENCE,
    _CALL,
    _ASKED_CALL,
    _SECRETS,
    _SENDING,
    _HIDING,
)
"""All of them; they read text that `undisguised` made plain."""
