"""Closed vocabularies: 40 concepts a text modality, two wordings each.

The three text modalities share no word, so each query can be answered from one modality only. 12
concepts of speech and 12 of descriptions also have two wordings in each of four other languages.
On-screen text is English everywhere: Pillow's built-in font has ASCII only.
"""

from __future__ import annotations

from collections.abc import Mapping

from harness.types import Modality

#: Language -> ISO 639-1 code, as in the metadata.
LANGUAGES: Mapping[str, str] = {
    "english": "en",
    "arabic": "ar",
    "chinese": "zh",
    "korean": "ko",
    "russian": "ru",
}

Pair = tuple[str, str]


def _pairs(text: str) -> tuple[Pair, ...]:
    pairs = [tuple(pair.split("/")) for pair in text.split()]
    return tuple((one, two) for one, two in pairs)


#: Two English wordings of every concept; a concept is its index.
ENGLISH: Mapping[Modality, tuple[Pair, ...]] = {
    # What is spoken: people, animals, food, nature and household things.
    Modality.ASR: _pairs(
        "doctor/physician child/kid teacher/instructor soldier/trooper farmer/grower "
        "friend/buddy king/monarch thief/burglar forest/woodland ocean/sea storm/tempest "
        "stone/boulder lawyer/attorney sailor/mariner rabbit/bunny dog/hound snake/serpent "
        "horse/stallion donkey/mule bread/loaf soup/broth candy/sweets river/creek hill/mound "
        "swamp/marsh gust/breeze rain/drizzle fog/mist couch/sofa rug/carpet lamp/lantern "
        "cup/mug trousers/pants hat/cap coat/jacket bag/sack knife/dagger rope/cord "
        "pot/kettle pillow/cushion"
    ),
    # What is written on screen: signs of a town, at most 12 letters.
    Modality.OCR: _pairs(
        "shop/store street/road highway/motorway automobile/car truck/lorry plane/aircraft "
        "ship/vessel bicycle/bike subway/metro taxi/cab elevator/lift apartment/condo "
        "cottage/bungalow prison/jail church/chapel graveyard/cemetery harbor/dock "
        "factory/mill restaurant/diner hotel/inn pub/tavern movie/film photo/picture "
        "newspaper/gazette magazine/journal mail/post money/cash salary/wage "
        "bargain/discount rubbish/garbage fence/railing entrance/doorway corridor/hallway "
        "cellar/basement attic/loft tap/faucet petrol/gasoline noon/midday evening/dusk "
        "holiday/vacation"
    ),
    # What is described: events.
    Modality.DESCRIPTION: _pairs(
        "battle/combat election/ballot protest/demonstration earthquake/tremor flood/deluge "
        "fire/blaze explosion/blast victory/triumph wedding/marriage funeral/burial "
        "disease/illness rescue/salvage accident/mishap defeat/loss contest/tournament "
        "champion/winner concert/recital song/tune dance/waltz anniversary/jubilee "
        "lecture/speech debate/argument treaty/pact crime/offence trial/lawsuit robbery/heist "
        "remedy/cure vaccine/jab discovery/breakthrough journey/voyage famine/hunger "
        "drought/dryness wealth/riches poverty/hardship tax/levy parliament/congress "
        "border/frontier parade/procession legend/myth harvest/crop"
    ),
}


def _foreign(modality: Modality, table: str) -> dict[str, dict[int, Pair]]:
    """Read ``concept ar/ar zh/zh ko/ko ru/ru`` lines into {language: {concept: wordings}}."""
    numbers = {pair[0]: number for number, pair in enumerate(ENGLISH[modality])}
    others = [language for language in LANGUAGES if language != "english"]
    found: dict[str, dict[int, Pair]] = {language: {} for language in others}
    for line in table.strip().splitlines():
        concept, *cells = line.split()
        for language, pair in zip(others, _pairs(" ".join(cells)), strict=True):
            found[language][numbers[concept]] = pair
    return found


_FOREIGN: Mapping[Modality, Mapping[str, Mapping[int, Pair]]] = {
    Modality.ASR: _foreign(
        Modality.ASR,
        """
        doctor   طبيب/حكيم      医生/大夫     의사/주치의      врач/доктор
        child    طفل/صبي        孩子/儿童     아이/어린이      ребёнок/малыш
        teacher  معلم/مدرس      老师/教员     선생님/교사      учитель/преподаватель
        soldier  جندي/عسكري     士兵/军人     군인/병사        солдат/боец
        farmer   مزارع/فلاح     农民/庄稼人   농부/경작자      фермер/крестьянин
        friend   صديق/رفيق      朋友/伙伴     친구/동무        друг/приятель
        king     ملك/عاهل       国王/君主     국왕/임금        король/монарх
        thief    لص/سارق        小偷/盗贼     도둑/절도범      вор/грабитель
        forest   غابة/حرش       森林/树丛     산림/수풀        лес/роща
        ocean    بحر/محيط       海洋/大海     바다/해양        море/океан
        storm    عاصفة/زوبعة    风暴/狂风     폭풍/태풍        буря/шторм
        stone    حجر/صخرة       石头/岩块     바위/돌멩이      камень/валун
        """,
    ),
    Modality.DESCRIPTION: _foreign(
        Modality.DESCRIPTION,
        """
        battle      معركة/قتال       战斗/交锋   전투/싸움       битва/сражение
        election    انتخابات/اقتراع  选举/投票   선거/투표       выборы/голосование
        protest     احتجاج/مظاهرة    抗议/示威   항의/시위       протест/демонстрация
        earthquake  زلزال/هزة        地震/震动   지진/강진       землетрясение/толчки
        flood       فيضان/سيل        洪水/水灾   홍수/물난리     наводнение/потоп
        fire        حريق/نيران       火灾/烈焰   화재/불길       пожар/возгорание
        explosion   انفجار/تفجير     爆炸/起爆   폭발/폭파       взрыв/детонация
        victory     نصر/فوز          胜利/获胜   승리/우승       победа/триумф
        wedding     زفاف/عرس         婚礼/喜宴   결혼식/혼례     свадьба/бракосочетание
        funeral     جنازة/دفن        葬礼/丧事   장례식/영결식   похороны/погребение
        disease     مرض/داء          疾病/病症   질병/병환       болезнь/недуг
        rescue      إنقاذ/نجدة       救援/营救   구조/구출       спасение/избавление
        """,
    ),
}


def wordings(modality: Modality, language: str) -> Mapping[int, Pair]:
    """Return the concepts of a text modality in a language, each with its two wordings."""
    if language == "english" or modality is Modality.OCR:
        return dict(enumerate(ENGLISH[modality]))
    return _FOREIGN[modality][language]


#: Words for what is seen and heard: the drawn value -> two wordings.
COLOURS: Mapping[str, Pair] = {
    "red": ("red", "crimson"),
    "green": ("green", "emerald"),
    "blue": ("blue", "azure"),
    "yellow": ("yellow", "golden"),
    "purple": ("purple", "violet"),
    "cyan": ("cyan", "turquoise"),
    "orange": ("orange", "tangerine"),
    "white": ("white", "snowy"),
}
SHAPES: Mapping[str, Pair] = {
    "square": ("square", "box"),
    "disc": ("disc", "circle"),
    "triangle": ("triangle", "wedge"),
    "cross": ("cross", "plus"),
    "ring": ("ring", "hoop"),
    "stripes": ("stripes", "bars"),
}
DIRECTIONS: Mapping[str, Pair] = {
    "left": ("leftwards", "westwards"),
    "right": ("rightwards", "eastwards"),
    "up": ("upwards", "skywards"),
    "down": ("downwards", "earthwards"),
}
BACKGROUNDS: Mapping[str, Pair] = {
    "black": ("black", "dark"),
    "grey": ("grey", "ashen"),
    "navy": ("navy", "midnight"),
    "brown": ("brown", "muddy"),
    "olive": ("olive", "mossy"),
}
TIMBRES: Mapping[str, Pair] = {
    "sine": ("flute", "whistle"),
    "saw": ("buzz", "drone"),
    "square": ("organ", "reed"),
    "bell": ("bell", "chime"),
}
PITCHES: Mapping[str, Pair] = {
    "low": ("low", "bass"),
    "middle": ("middle", "medium"),
    "high": ("high", "shrill"),
}
CONTOURS: Mapping[str, Pair] = {
    "steady": ("steady", "level"),
    "climbing": ("climbing", "ascending"),
    "dropping": ("dropping", "descending"),
    "wavering": ("wavering", "trembling"),
}

#: Words that a video's query id carries, as in MultiVENT 2.0.
EVENTS = ("political", "emergency", "sports", "discovery", "election", "protest", "social", "other")
STYLES = ("professional", "edited", "pov")
