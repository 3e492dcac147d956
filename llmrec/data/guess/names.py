"""What names of columns and files say: `customer_no` is a user, `orders.csv` is a log."""

from __future__ import annotations

import re

from llmrec.data.tables.described import FILE_FOLDER, FILE_NAME

# Words of English, German, French, Spanish, Italian and Dutch shops, in lower case.
_WORDS: dict[str, str] = {
    "user": "user usr uid u customer cust client member buyer shopper reviewer visitor person player reader listener "
    "viewer learner student patient subscriber username userid anonymousid distinctid account profile kunde "
    "kunden kd nutzer benutzer käufer kaeufer acheteur utilisateur cliente usuario comprador utente klant gebruiker",
    "item": "item lineitem iid i product prod article art sku asin isbn ean gtin upc plu stockcode movie film book "
    "song track album artist game app business poi venue place hotel restaurant recipe video news post offer listing "
    "course job goods merchandise anime artikel produkt ware buch spiel produit livre producto articulo libro "
    "prodotto articolo joke podcast episode meal dish wine beer exercise pathname permalink",
    "time": "time timestamp ts date datetime day epoch when unixreviewtime reviewtime created ordered purchased "
    "bought orderdate invoicedate datum zeit zeitpunkt zeitstempel bestelldatum kaufdatum bestellzeit fecha hora "
    "heure data",
    "clock": "time clock hour uhrzeit hora heure ora",
    "rating": "rating star stars score overall grade note bewertung punkte sterne valoracion puntuacion voto",
    "event": "event eventtype eventname action behavior behaviour interaction interactiontype type kind aktion "
    "ereignis",
    "title": "title titel titulo titre titolo name nom nombre nome naam bezeichnung artikelbezeichnung produktname "
    "artikelname productname itemname designation libelle label headline",
    "categories": "category categories categoryname cat genre genres breadcrumb breadcrumbs department taxonomy "
    "kategorie kategorien warengruppe categorie categoria categorias",
    "brand": "brand brandname maker manufacturer developer publisher author artist store vendor marke hersteller "
    "marque marca fabricante",
    "price": "price cost unitprice preis verkaufspreis einzelpreis prix precio prezzo prijs",
    "description": "description descr desc overview about text details summary synopsis beschreibung artikeltext "
    "descripcion descrizione",
}
ROLES = {role: frozenset(words.split()) for role, words in _WORDS.items()}
_LISTS = {
    "id": "id ids no nr num number nummer code key uid uuid guid identifier hash idx index ref uri urn oid "
    "entity",
    "plain": "shop my global anonymous anon external internal raw original orig web main full the of "
    "pseudo master metadata",
    "personal": "name firstname lastname surname vorname nachname email mail phone telephone telefon mobile address "
    "adresse street strasse straße iban ip ssn password passwort token birthday birthdate dob geburtsdatum nickname "
    "login",
    "other time": "birth birthday birthdate dob geburtsdatum release released signup registered registration updated "
    "modified changed shipped shipping delivered delivery dispatched returned expiry expires valid paid since dow "
    "weekday wochentag lieferdatum versanddatum geändert",
    "item file": "item items product products article articles meta metadata movie movies film films book books game "
    "games catalog catalogue song songs track tracks artikel produkte produkt business anime recipes courses",
    "user file": "user users customer customers member members kunden client clients kunde",
}
_IDS, _PLAIN, _PERSONAL, _OTHER_TIMES, _ITEM_FILES, _USER_FILES = (
    frozenset(words.split()) for words in _LISTS.values()
)
_SESSIONS = {"session", "sessionid", "visit", "visitid"}
_SEQUENCES = {"ordernumber", "sequence", "sequencenumber", "seq", "step", "turn"}
_PART_OF_TIME = re.compile(r"(?:hour|minute|day|week|month)of(?:the)?(?:day|week|month|year)")
_LOG_FILES = {
    "order orders purchase purchases transaction transactions sale sales bestellung bestellungen verkäufe verkaeufe "
    "kauf käufe invoices": 0.6,
    "rating ratings review reviews interaction interactions log train events bewertungen feedback inter": 0.5,
    "click clicks view views session sessions history behavior behaviors plays logs": 0.3,
    "return returns refund refunds cart carts wishlist wishlists favorites retouren tag tags": -0.5,
}


def words_of(name: str) -> list[str]:
    """Return the words of a name in lower case: `parentASIN`, `parent_asin` and `Parent ASIN` give parent, asin."""
    name = name.partition(":")[0] or name  # `user_id:token`
    spaced = re.sub(r"(?<=[a-zäöü0-9])(?=[A-ZÄÖÜ])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return re.findall(r"[^\W\d_]+", spaced.lower())


def is_bare_id(name: str) -> bool:
    """Whether a name says only that it is an id: `id`, `uid`, `no`."""
    words = words_of(name)
    return bool(words) and set(words) <= _IDS


def _matches(word: str, role: str) -> bool:
    """Whether a word names a role, alone, in the plural, or with an ending for ids (`kundennr`, `itemid`)."""
    known = ROLES[role]
    if word in known or (len(word) > 3 and word.removesuffix("s") in known):
        return True
    if role not in ("user", "item"):
        return False
    stems = (word.removesuffix(end) for end in _IDS if len(end) > 1 and word.endswith(end))
    return any(len(stem) > 2 and stem in known for stem in stems)


def score(role: str, name: str) -> float:
    """Return how clearly a column's name says that it has a role: 0 not at all, 3 as clearly as a name can."""
    if name in (FILE_NAME, FILE_FOLDER):
        return 3 if role == "user" else 0
    words = words_of(name)
    joined = "".join(words)
    if role in ("user", "item"):
        return _score_of_id(role, words)
    if role in ("time", "clock"):
        return _score_of_time(role, words, joined)
    if _matches(joined, role):
        return 2.9 if role == "title" and joined == "name" else 3
    if not any(_matches(word, role) for word in words):
        return 0
    rest = [word for word in words if not _matches(word, role) and word not in _PLAIN]
    if any(word in _IDS for word in rest) or (role == "title" and _is_of_another(words)):
        return 0
    return 2.8 if all(_matches(word, "item") for word in rest) else 1  # product_name


def _score_of_id(role: str, words: list[str]) -> float:
    if "".join(words) in ROLES[role]:  # StockCode
        return 3
    rest = [word for word in words if not _matches(word, role)]
    if not words:
        return 0
    if len(rest) == len(words):
        return 1.2 if role == "user" and _stands_for_user(words) else 0
    others = [word for word in rest if word not in _IDS]
    # An account or a product group is told apart by what stands beside the word.
    is_less = bool(set(words) & {"account", "profile", "visitor", "artist", "art"})
    if not others:
        return 2.5 if is_less else 3
    if all(word in _PLAIN or word in ("parent", "source", "unique", "hashed") for word in others):
        return 2.5
    if any(_matches(word, other) for word in others for other in ("item", "user") if other != role):
        return 1
    if all(word in _PERSONAL or word in ROLES["title"] for word in others):
        return 1.1 if is_less else 1.2
    return 0.6 if words[-1] in _IDS else 0.3


def _stands_for_user(words: list[str]) -> bool:
    """Whether a name is that of a session or of an e-mail address: who has no other user has these."""
    is_session = any(word in _SESSIONS for word in words)
    return words[-1] in ("email", "mail") or (
        is_session and all(w in _SESSIONS | _IDS | _PLAIN for w in words)
    )


def _score_of_time(role: str, words: list[str], joined: str) -> float:
    if set(words) & _OTHER_TIMES or joined in _OTHER_TIMES or _PART_OF_TIME.search(joined):
        return 0.2 if role == "time" else 0
    if _matches(joined, role):
        return 3
    if any(_matches(word, role) for word in words):
        return 2.6
    return 2 if words[-1:] == ["at"] else 0


def is_sequence(name: str) -> bool:
    """Whether a name says that a column counts a user's choices: `order_number`, `step`."""
    return "".join(words_of(name)) in _SEQUENCES


def _is_of_another(words: list[str]) -> bool:
    """Whether a name is that of a brand, a category or a person: `brand_name`."""
    return any(_matches(word, role) for word in words for role in ("brand", "categories", "user"))


def is_known(name: str) -> bool:
    """Whether a name is one that columns have."""
    return any(score(role, name) >= 2 for role in ROLES)


def is_personal(name: str) -> bool:
    """Whether a column holds what identifies a person: a name, an address, a number."""
    words = words_of(name)
    return bool(_PERSONAL & {*words, "".join(words)})


def log_bonus(path: str) -> float:
    """Return how much a file's name speaks for a log: purchases more than ratings, ratings more than clicks."""
    found = set(words_of(path.replace(".", " ")))
    bonus = max((value for words, value in _LOG_FILES.items() if found & set(words.split())), default=0.0)
    least = min((value for words, value in _LOG_FILES.items() if found & set(words.split())), default=0.0)
    return least if least < 0 else bonus


def is_item_file(path: str) -> bool:
    """Whether a file's name says that it describes items."""
    return bool(_ITEM_FILES & set(words_of(path.replace(".", " "))))


def is_user_file(path: str) -> bool:
    """Whether a file's name says that it describes users."""
    return bool(_USER_FILES & set(words_of(path.replace(".", " "))))
