"""The same few sentences in several languages, and some code: what every vocabulary is measured on.

A corpus says what a vocabulary is worth on its own kind of text; these say what it does elsewhere, and being
the same for all they can be compared. The languages tell one story, so their tokens compare too, not only their
bytes. They are samples, a few hundred bytes each: good for finding that a language is spelt in bytes, not for
the third digit. Written for this purpose, under the project's licence.
"""

from __future__ import annotations

PROBES: dict[str, str] = {
    "English": (
        "The tide comes in twice a day. Before it does, people walk out over the wet sand with buckets and look for "
        "mussels. A child asked her grandmother why the sea goes away, and the old woman said that it only wants to "
        "be called back. In the evening, when the lamps were lit, they heard it at the harbour wall."
    ),
    "German": (
        "Die Flut kommt zweimal am Tag. Vorher gehen die Leute mit Eimern über den nassen Sand hinaus und suchen "
        "Muscheln. Ein Kind fragte seine Großmutter, warum das Meer fortgeht, und die alte Frau sagte, es wolle nur "
        "zurückgerufen werden. Am Abend, als die Lampen brannten, hörten sie es an der Hafenmauer."
    ),
    "French": (
        "La marée monte deux fois par jour. Avant qu'elle n'arrive, les gens s'avancent sur le sable mouillé avec des "
        "seaux et cherchent des moules. Une enfant demanda à sa grand-mère pourquoi la mer s'en va, et la vieille "
        "femme répondit qu'elle veut seulement qu'on la rappelle. Le soir, quand les lampes furent allumées, ils "
        "l'entendirent contre le mur du port."
    ),
    "Spanish": (
        "La marea sube dos veces al día. Antes de que llegue, la gente camina sobre la arena mojada con cubos y busca "
        "mejillones. Una niña preguntó a su abuela por qué se va el mar, y la anciana dijo que solo quiere que lo "
        "llamen de vuelta. Por la noche, cuando se encendieron las lámparas, lo oyeron junto al muro del puerto."
    ),
    "Polish": (
        "Przypływ nadchodzi dwa razy dziennie. Wcześniej ludzie wychodzą z wiadrami na mokry piasek i szukają małży. "
        "Dziecko zapytało babcię, dlaczego morze odchodzi, a stara kobieta odpowiedziała, że chce tylko, żeby je "
        "zawołać z powrotem. Wieczorem, gdy zapalono lampy, usłyszeli je przy murze portu."
    ),
    "Russian": (
        "Прилив приходит два раза в день. До него люди выходят с вёдрами на мокрый песок и ищут мидий. Девочка "
        "спросила бабушку, почему море уходит, и старая женщина сказала, что оно только хочет, чтобы его позвали "
        "обратно. Вечером, когда зажгли лампы, они услышали его у стены гавани."
    ),
    "Arabic": (
        "يأتي المد مرتين في اليوم. قبل أن يأتي يمشي الناس على الرمل المبلل بالدلاء ويبحثون عن بلح البحر. سألت طفلة "
        "جدتها لماذا يذهب البحر، فقالت العجوز إنه يريد فقط أن يناديه أحد ليعود. وفي المساء، حين أضيئت المصابيح، "
        "سمعوه عند جدار الميناء."
    ),
    "Hindi": (
        "ज्वार दिन में दो बार आता है। उसके आने से पहले लोग बाल्टियाँ लेकर गीली रेत पर चलते हैं और सीपियाँ खोजते हैं। एक बच्ची ने "
        "अपनी दादी से पूछा कि समुद्र क्यों चला जाता है, और बूढ़ी औरत ने कहा कि वह बस चाहता है कि उसे वापस बुलाया जाए। शाम को, जब "
        "दीये जलाए गए, उन्होंने उसे बंदरगाह की दीवार पर सुना।"
    ),
    "Chinese": (
        "潮水每天来两次。在它来之前，人们提着水桶走过湿湿的沙滩，寻找贻贝。一个孩子问她的祖母，大海为什么会离开，老妇人说，"
        "它只是想被叫回来。到了晚上，灯点亮的时候，他们听见它在港口的墙边。"
    ),
    "Japanese": (
        "潮は一日に二度満ちてくる。その前に人々はバケツを持って濡れた砂の上を歩き、ムール貝を探す。ある子どもが祖母に、"
        "海はなぜ行ってしまうのかとたずねると、年老いた女は、海はただ呼び戻してほしいだけなのだと言った。夕方、"
        "明かりがともるころ、港の壁に寄せる海の音が聞こえた。"
    ),
    "Python": (
        "def tides(heights: list[float], low: float = 0.5) -> list[tuple[int, float]]:\n"
        '    """Hours at which the water turns, with its height."""\n'
        "    found = []\n"
        "    for hour, (before, here, after) in enumerate(zip(heights, heights[1:], heights[2:]), start=1):\n"
        "        if (here - before) * (after - here) < 0 and abs(here) > low:\n"
        "            found.append((hour, round(here, 2)))\n"
        "    return found\n"
    ),
    "C": (
        "#include <stddef.h>\n\n"
        "/* Returns the index of the highest water, or -1 where there is none. */\n"
        "static int highest(const double *height, size_t count)\n{\n"
        "\tint best = -1;\n\n"
        "\tfor (size_t i = 0; i < count; i++) {\n"
        "\t\tif (best < 0 || height[i] > height[best])\n"
        "\t\t\tbest = (int)i;\n\t}\n\treturn best;\n}\n"
    ),
    "JSON": (
        '{\n  "harbour": "north",\n  "measured": [\n    {"hour": 3, "height_m": 4.25, "wind": null},\n'
        '    {"hour": 9, "height_m": 0.75, "wind": "SW"},\n    {"hour": 15, "height_m": 4.5, "wind": "W"}\n  ],\n'
        '  "valid": true\n}\n'
    ),
    "numbers": (
        "At 03:15 on 2024-11-07 the gauge read 4.25 m, 12.5 % above the mean of 3.78 m over 1,461 days; by 09:40 it "
        "had fallen to 0.75 m. 27 x 43 = 1161, 1161 / 9 = 129, and 129 + 3872 = 4001.\n"
    ),
}
"""Text by its name."""
