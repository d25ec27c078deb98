"""Leaks of made-up questions among made-up dialogues, to measure what contamination.py finds.

Written for this project. Every question and dialogue is put together from parallel Chinese and
English phrases about everyday psychology. Questions that nobody leaked have the templates, the
phrases and many option phrases of those that were leaked, and of the dialogues around them.
"""

import random
import unicodedata
from itertools import combinations, product

import zhconv
from sftflow.inputs.contamination import Question

KINDS = (
    "verbatim", "short stem", "reordered", "one word changed", "split over turns", "traditional",
    "options only", "case, width, punctuation", "in a longer text", "translated",
)  # fmt: skip

# Each word in English and in Chinese.
WORDS = {
    name: [tuple(each.strip().split(" = ")) for each in words.split(",")]
    for name, words in {
        "manner": (
            "a retired = 一位退休的, a shy = 一位害羞的, a widowed = 一位丧偶的, "
            "a young = 一位年轻的, a left-handed = 一位左撇子, a famous = 一位著名的, "
            "a tired = 一位疲惫的, an anxious = 一位焦虑的, a generous = 一位慷慨的, "
            "a stubborn = 一位固执的, a talkative = 一位健谈的, an honest = 一位诚实的"
        ),
        "job": (
            "nurse = 护士, bus driver = 公交司机, violin teacher = 小提琴老师, baker = 面包师, "
            "farmer = 农民, sales manager = 销售经理, chess champion = 国际象棋冠军, "
            "museum guard = 博物馆保安, surgeon = 外科医生, goalkeeper = 守门员, "
            "librarian = 图书管理员, sailor = 水手, novelist = 小说家, plumber = 水管工, "
            "judge = 法官, pilot = 飞行员, florist = 花店店主, programmer = 程序员, "
            "priest = 牧师, gardener = 园丁"
        ),
        "verb": (
            "keeps checking = 不断检查, avoids talking about = 避免谈起, "
            "spends all savings on = 把积蓄全花在, laughs loudly about = 大声嘲笑, "
            "dreams every night of = 每晚都梦见, cannot stop counting = 忍不住去数, "
            "refuses to look at = 拒绝去看, secretly collects = 偷偷收集, "
            "pays no attention to = 毫不注意, writes letters about = 写信谈论, "
            "suddenly cannot recognise = 突然认不出, feels guilty about = 感到愧对"
        ),
        "look": (
            "broken = 坏掉的, striped = 有条纹的, old = 旧, tiny = 很小的, golden = 金色的, "
            "dusty = 积灰的, noisy = 嘈杂的, empty = 空, wooden = 木头, foreign = 外国, "
            "borrowed = 借来的, hidden = 藏起来的, wet = 湿漉漉的, unfinished = 未完成的, "
            "expensive = 昂贵的, forgotten = 被遗忘的"
        ),
        "object": (
            "lamps = 台灯, watches = 手表, lottery tickets = 彩票, kitchen tiles = 厨房瓷砖, "
            "umbrellas = 雨伞, photographs = 照片, staircases = 楼梯, songs = 歌曲, "
            "horses = 马匹, door locks = 门锁, postcards = 明信片, bridges = 桥梁, "
            "violins = 小提琴, shoes = 鞋子, mirrors = 镜子, maps = 地图, bottles = 瓶子, "
            "curtains = 窗帘, ships = 轮船, statues = 雕像, coins = 硬币, diaries = 日记, "
            "clouds = 云彩, suitcases = 行李箱"
        ),
        "time": "after = 之后, before = 之前, during = 期间",
        "event": (
            "the final exams = 期末考试, a minor car accident = 轻微车祸, "
            "the job interview = 求职面试, a long holiday = 漫长的假期, the divorce = 离婚, "
            "three sleepless nights = 连续三夜失眠, the family reunion = 家庭聚会, "
            "a heavy storm = 暴风雨, the promotion = 升职, a power cut = 停电, "
            "the first marathon = 第一次马拉松, an eye operation = 眼科手术, "
            "the school play = 学校演出, a train strike = 铁路罢工, "
            "the move to Oslo = 搬到奥斯陆, a public lecture = 公开讲座"
        ),
        "topic": (
            "attachment = 依恋, habituation = 习惯化, projection = 投射, rumination = 反刍, "
            "imprinting = 印刻, priming = 启动, catharsis = 宣泄, empathy = 共情, "
            "regression = 退行, resilience = 韧性, shaping = 塑造, satiation = 餍足, "
            "repression = 压抑, mimicry = 模仿, arousal = 唤醒, dissociation = 解离, "
            "procrastination = 拖延, altruism = 利他"
        ),
        "field": (
            "infants = 婴儿, couples = 夫妻, athletes = 运动员, managers = 管理者, "
            "teachers = 教师, refugees = 难民, drivers = 司机, twins = 双胞胎, voters = 选民, "
            "widows = 寡妇, gamblers = 赌徒, pupils = 小学生, clerks = 职员, poets = 诗人, "
            "monks = 僧侣, soldiers = 士兵"
        ),
        "change": (
            "gradual loss = 逐渐丧失, sudden return = 突然恢复, careful control = 小心控制, "
            "early growth = 早期发展, false report = 虚假报告, shared fear = 共同恐惧, "
            "poor timing = 时机不当, better use = 更好利用, open denial = 公开否认, "
            "quick guess = 快速猜测, long delay = 长期推迟, vivid recall = 生动回忆, "
            "strict order = 严格次序, mutual praise = 相互赞美"
        ),
        "thing": (
            "childhood pictures = 童年画面, spoken promises = 口头承诺, "
            "bodily signals = 身体信号, group norms = 群体规范, small rewards = 微小奖励, "
            "visual details = 视觉细节, moral rules = 道德规则, daily routines = 日常惯例, "
            "past failures = 过去失败, social ties = 社会联系, inner speech = 内部言语, "
            "motor skills = 动作技能, phone numbers = 电话号码, facial expressions = 面部表情"
        ),
        "other": "purple = 紫色, seldom = 很少, twelve = 十二, garden = 花园, outside = 外面",
    }.items()
}
WORDS["number"] = [(str(n), str(n)) for n in range(21, 98)]
WORDS["ask"] = [
    ("Which concept explains this best?", "下列哪个概念最能解释这一现象？"),
    ("Which of the following is most likely the cause?", "下列哪一项最可能是其原因？"),
    ("What would a therapist conclude first?", "治疗师首先会得出什么结论？"),
    ("Which statement about this case is correct?", "关于这一个案的说法正确的是哪一项？"),
]
PHRASES = {
    "who": ("{manner} {job}", "{manner}{job}"),
    "does": ("{verb} {look} {object}", "{verb}{look}{object}"),
    "when": ("{time} {event}", "{event}{time}"),
    "finding": ("{change} of {thing}", "{thing}的{change}"),
    "group": ("{topic} in {field}", "{field}的{topic}"),
}
FORMS = {
    "case": ("{who} {does} {when}. {ask}", "{when}，{who}{does}。{ask}"),
    "study": (
        "A study of {number} people found that {group} goes along with {finding} {when}. {ask}",
        "一项对{number}人的研究发现，{when}，{group}与{finding}同时出现。{ask}",
    ),
    "plain": ("Why would {who} feel that he {does}?", "为什么{who}会觉得自己{does}？"),
    "short": ("What is {group}?", "{group}是指"),
}
LONG = ("case", "study", "plain")
PROSE = [
    ("People often ask why somebody {does}. There is rarely one reason; talking it over helps.",
     "常有人问，为什么有人会{does}。原因往往不止一个，聊一聊会有帮助。"),
    ("I read a long article about {group}. It says {finding} matters more than we think.",
     "我读了一篇很长的文章，讲{group}。文中说，{finding}比我们想的更重要。"),
    ("{when}, many of us feel tired, and it is normal to lose interest in {object} for some time.",
     "{when}，很多人都会觉得疲惫，一时对{object}提不起兴趣也很正常。"),
    ("Could you explain {topic} with an example from the life of {field}, please? Keep it short.",
     "请你用{field}生活中的例子解释一下{topic}好吗？简短一些。"),
    ("Psychologists speak of {topic} when {thing} no longer fit what a person expects of the day.",
     "当{thing}不再符合一个人对一天的期待时，心理学家会说到{topic}。"),
    ("What is {topic}? My friend thinks it has to do with {thing}, but I am not sure about that.",
     "什么是{topic}？我朋友觉得它和{thing}有关，可我不太确定。"),
    ("Which of the following is better for {who}: a walk, a nap, or a talk about {look} {object}?",
     "对{who}来说，下列哪一项更好：散步、小睡，还是谈谈{look}{object}？"),
]  # fmt: skip
LABELS = ("{}. ", "({}) ", "{}、", "{}) ")
EN, ZH = 0, 1


class Item:
    """One question, which can be put in both languages."""

    def __init__(self, rng: random.Random, form: str):
        self.template = FORMS[form]
        self.words = {name: rng.choice(words) for name, words in WORDS.items()}
        findings = list(product(WORDS["change"], WORDS["thing"]))
        self.choices = [
            dict(zip(("change", "thing"), each, strict=True)) for each in rng.sample(findings, 4)
        ]

    def stem(self, language: int) -> str:
        return fill(self.template[language], self.words, language)

    def options(self, language: int) -> list[str]:
        return [fill("{finding}", choice, language) for choice in self.choices]

    def marks(self) -> set[tuple[str, ...]]:
        """What no other question may have: more than half of the words that fill the template."""
        blanks = fill(self.template[EN], {name: (f"<{name}>", "") for name in WORDS}, EN)
        names = set(WORDS) - {"ask", "number", "time"}
        words = [self.words[name][EN] for name in sorted(names) if f"<{name}>" in blanks]
        return set(combinations(words, len(words) // 2 + 1))


def fill(template: str, words: dict, language: int) -> str:
    """A template, whose phrases are filled in first, then their words."""
    for _ in range(2):
        phrases = {name: both[language] for name, both in (PHRASES | words).items()}
        template = template.format(**phrases)
    return template[:1].upper() + template[1:]


def prose(rng: random.Random, language: int, sentences: int) -> str:
    """Text of the same topics that asks none of the questions."""
    templates = [pair[language] for pair in rng.sample(PROSE, sentences)]
    words = {name: rng.choice(values) for name, values in WORDS.items()}
    return ("" if language == ZH else " ").join(fill(each, words, language) for each in templates)


def listed(rng: random.Random, options: list[str]) -> str:
    label, gap = rng.choice(LABELS), rng.choice(("\n", "  ", "\n\n"))
    return gap.join(
        label.format(letter) + text for letter, text in zip("ABCD", options, strict=True)
    )


def leak(rng: random.Random, kind: str, item: Item, language: int) -> list[str]:
    """The turns that give a question away; the first is a user's."""
    if kind == "translated":
        language = 1 - language
    stem, options = item.stem(language), item.options(language)
    if kind == "reordered":
        end = "." if language == EN else "。"
        first, _, last = stem.rpartition(end)
        stem = f"{last.strip()} {first}{end}"
        rng.shuffle(options)
    if kind == "one word changed":
        stem = changed(rng, stem, language)
    text = stem
    if kind in ("short stem", "reordered") or rng.random() < 0.5:
        text += "\n" + listed(rng, options)
    if kind == "options only":
        text = listed(rng, options)
    if kind == "traditional":
        text = zhconv.convert(text, "zh-hant")
    if kind == "case, width, punctuation":
        text = disguised(rng, text, language)
    if kind == "in a longer text":
        text = f"{prose(rng, language, 4)} {text} {prose(rng, language, 3)}"
    if kind == "split over turns":
        middle = len(stem) // 2 if language == ZH else stem.index(" ", len(stem) // 2)
        return [stem[:middle], prose(rng, language, rng.choice((1, 4))), stem[middle:]]
    return [text]


def changed(rng: random.Random, stem: str, language: int) -> str:
    """One word, wherever it stands, becomes another."""
    other = rng.choice(WORDS["other"])[language]
    if language == ZH:
        at = rng.randrange(len(stem) - 2)
        return stem[:at] + other + stem[at + 2 :]
    words = stem.split(" ")
    words[rng.randrange(len(words))] = other
    return " ".join(words)


def disguised(rng: random.Random, text: str, language: int) -> str:
    """The same text in capitals, full width, without or with other punctuation and spaces."""
    wide = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
    bare = "".join(" " if unicodedata.category(c)[0] == "P" else c for c in text)
    return rng.choice(
        [text.upper().translate(wide), bare.upper() if language == EN else " ".join(bare)]
    )


def corpus(seed: int, each: int) -> tuple[dict[str, tuple[str, Question]], list[dict]]:
    """({identity: (kind of its leak, or "clean"; the question)}, dialogues with id and messages).

    `each`: how many questions of each kind are leaked in each language. Five times as many are not
    leaked at all, and as many dialogues again hold no question, or one that is in no benchmark.
    """
    rng = random.Random(seed)
    taken: set[tuple] = set()
    questions, dialogues = {}, []

    def fresh(form: str) -> Item:
        """One that is no near copy of any question, and is not given out again."""
        item = Item(rng, form)
        while item.marks() & taken:
            item = Item(rng, form)
        taken.update(item.marks())
        return item

    def say(turns: list[str]) -> None:
        roles = ["user", "assistant"] * len(turns)
        messages = [{"role": r, "content": text} for r, text in zip(roles, turns, strict=False)]
        dialogues.append({"id": f"dialogue {len(dialogues)}", "messages": messages})

    for language, code in ((EN, "en"), (ZH, "zh")):
        plan = [kind for kind in KINDS for _ in range(each)] + ["clean"] * 5 * each
        for number, kind in enumerate(plan):
            if kind == "traditional" and language == EN:
                continue
            short = kind == "short stem" or (kind == "clean" and number % 20 == 0)
            item = fresh("short" if short else rng.choice(LONG))
            identity = f"{code} {number} {kind}"
            options = tuple(item.options(language))
            questions[identity] = (kind, Question(identity, code, item.stem(language), options))
            if kind != "clean":
                turns = leak(rng, kind, item, language)
                say([*turns, prose(rng, language, rng.randint(1, 4))])
            else:
                asked = fresh(rng.choice(LONG))
                own = asked.stem(language) + "\n" + listed(rng, asked.options(language))
                start = own if rng.random() < 0.3 else prose(rng, language, 3)
                say([start, *(prose(rng, language, sentences) for sentences in (4, 1, 2))])
    rng.shuffle(dialogues)
    return questions, dialogues
