"""Public datasets as they are published."""

import gzip

from folders.contents import ITEMS, PAIRS, START, USERS, day, lines, log, objects, stars, when


def movielens_1m():
    return {
        "ml-1m/ratings.dat": lines(log(stars, when), "::"),
        "ml-1m/movies.dat": lines(
            [(i, f"Café {i}: A Film (1995)", "Action|Comedy" if i % 2 else "Drama") for i in range(ITEMS)],
            "::",
            "latin-1",
        ),
        "ml-1m/users.dat": lines(
            [(u, "FM"[u % 2], 25 + u % 3, u % 5, f"48{u:03d}") for u in range(USERS)], "::"
        ),
        "ml-1m/README": b"SUMMARY\nThese files contain ratings of movies.\n",
    }


def movielens_csv():
    tags = [(u, i, f"tag {n}", time) for n, (u, i, time) in enumerate(log(when)[::3])]
    return {
        "ratings.csv": lines([("userId", "movieId", "rating", "timestamp"), *log(stars, when)]),
        "movies.csv": lines(
            [
                ("movieId", "title", "genres"),
                *((i, f'"Film {i}, The (1995)"', "Action|Comedy") for i in range(ITEMS)),
            ]
        ),
        "links.csv": lines(
            [("movieId", "imdbId", "tmdbId"), *((i, f"01147{i:02d}", 800 + i) for i in range(ITEMS))]
        ),
        "tags.csv": lines([("userId", "movieId", "tag", "timestamp"), *tags]),
    }


def movielens_100k():
    flags = "|".join("1" if n in (1, 5) else "0" for n in range(19))
    return {
        "u.data": lines(log(stars, when), "\t"),
        "u.item": "".join(
            f"{i}|Café {i} (1995)|01-Jan-1995||http://x/{i}|{flags}\n" for i in range(ITEMS)
        ).encode("latin-1"),
        "u.genre": lines([("unknown", 0), ("Action", 1), ("Adventure", 2)], "|"),
        "u.user": lines([(u, 20 + u, "F", "writer", 94000 + u) for u in range(USERS)], "|"),
    }


def amazon_2023():
    reviews = [
        {
            "rating": float(rating),
            "title": f"Headline {place}",
            "text": f"A long and honest text about it, number {place}.",
            "images": [],
            "asin": f"B{item:02d}{place % 2}",
            "parent_asin": f"B{item:02d}",
            "user_id": f"AE{user}",
            "timestamp": 1000 * time,
            "helpful_vote": 0,
            "verified_purchase": True,
        }
        for place, (user, item, rating, time) in enumerate(log(stars, when))
    ]
    meta = [
        {
            "main_category": "All Beauty",
            "title": f"Cream {i} & more",
            "average_rating": 4.5,
            "rating_number": 10 + i,
            "features": [],
            "description": ["Nice.", f"Very {i}."],
            "price": 9.99 + i,
            "images": [{"thumb": "http://x"}],
            "store": f"Acme {i % 3}",
            "categories": ["Beauty", f"Skin {i % 2}"],
            "details": {"Brand": "Acme"},
            "parent_asin": f"B{i:02d}",
        }
        for i in range(ITEMS + 2)
    ]
    return {
        "All_Beauty.jsonl.gz": gzip.compress(objects(reviews)),
        "meta_All_Beauty.jsonl.gz": gzip.compress(objects(meta)),
    }


def amazon_2014():
    reviews = [
        {
            "reviewerID": f"A{user}",
            "asin": f"B{item:03d}",
            "reviewerName": f"Anna {user % 7}",
            "helpful": [0, 0],
            "reviewText": f"This is what I think of the thing, number {place}.",
            "overall": float(rating),
            "summary": f"Fine {place}",
            "unixReviewTime": time - time % 86_400,
            "reviewTime": day(time, "%m %d, %Y"),
        }
        for place, (user, item, rating, time) in enumerate(log(stars, when))
    ]
    meta = [
        {
            "asin": f"B{i:03d}",
            "title": f"Soap {i}",
            "price": 9.99,
            "brand": "Acme",
            "categories": [["Beauty", f"Soap {i % 2}"]],
            "description": f"A soap that is called {i}.",
            "imUrl": f"http://x/{i}.jpg",
        }
        for i in range(ITEMS)
    ]
    return {
        "reviews_Beauty_5.json.gz": gzip.compress(objects(reviews)),
        "meta_Beauty.json.gz": gzip.compress(objects(meta, repr)),
    }


def steam():
    reviews = [
        {
            "username": f"Player {user}",
            "hours": 1.5 + place,
            "products": 10 + user,
            "product_id": str(700 + item),
            "page_order": 0,
            "date": day(time),
            "text": f"I played this and liked it, number {place}.",
            "early_access": False,
            "page": 1,
        }
        for place, (user, item, time) in enumerate(log(when))
    ]
    games = [
        {
            "publisher": "Kotoshiro",
            "genres": ["Action", "Indie"],
            "app_name": f"Game {i}",
            "title": f"Game {i}",
            "url": f"http://x/{i}",
            "release_date": f"2018-01-{i + 1:02d}",
            "tags": ["Strategy"],
            "price": 4.99,
            "early_access": False,
            "id": str(700 + i),
            "developer": f"Studio {i % 3}",
        }
        for i in range(ITEMS)
    ]
    return {
        "steam_reviews.json.gz": gzip.compress(objects(reviews, repr)),
        "steam_games.json.gz": gzip.compress(objects(games, repr)),
    }


def steam_libraries():
    libraries = [
        {
            "user_id": f"p{u}",
            "items_count": 4,
            "steam_id": f"765{u}",
            "items": [
                {"item_id": str(i), "item_name": f"G {i}", "playtime_forever": 6 * i}
                for v, i in PAIRS
                if v == u
            ],
        }
        for u in range(USERS)
    ]
    return {"australian_users_items.json": objects(libraries, repr)}


def yelp():
    reviews = [
        {
            "review_id": f"r{place}",
            "user_id": f"u{user}",
            "business_id": f"b{item}",
            "stars": float(rating),
            "useful": 0,
            "text": f"We went there and ate well, number {place}.",
            "date": day(time, "%Y-%m-%d %H:%M:%S"),
        }
        for place, (user, item, rating, time) in enumerate(log(stars, when))
    ]
    places = [
        {
            "business_id": f"b{i}",
            "name": f"Bistro {i}",
            "address": "1 Road",
            "city": "Tucson",
            "state": "AZ",
            "stars": 4.0,
            "categories": ("Food, Bars", "Food, Cafes", "Bars, Cafes", "Food, Bars, Cafes")[i % 4],
        }
        for i in range(ITEMS)
    ]
    people = [
        {"user_id": f"u{u}", "name": f"Anna {u}", "yelping_since": day(START), "fans": u % 4}
        for u in range(USERS)
    ]
    return {
        "yelp_academic_dataset_review.json": objects(reviews),
        "yelp_academic_dataset_business.json": objects(places),
        "yelp_academic_dataset_user.json": objects(people),
    }


def retail():
    """The online retail log: titles in the log, guests without a customer, dates of Excel."""
    head = (
        "InvoiceNo",
        "StockCode",
        "Description",
        "Quantity",
        "InvoiceDate",
        "UnitPrice",
        "CustomerID",
        "Country",
    )
    rows = [
        (
            5000 + place,
            f"8{i}A",
            f"WHITE LANTERN {i}",
            1 + place % 4,
            day(t, "%m/%d/%Y %H:%M"),
            f"{1 + i}.55",
            "" if place % 9 == 4 else f"17{u}",
            "UK",
        )
        for place, (u, i, t) in enumerate(log(when))
    ]
    return {"online_retail.csv": lines([head, *rows])}


def recbole():
    return {
        "ml.inter": lines(
            [("user_id:token", "item_id:token", "rating:float", "timestamp:float"), *log(stars, when)], "\t"
        ),
        "ml.item": lines(
            [
                ("item_id:token", "movie_title:token_seq", "class:token_seq"),
                *((i, f"Film {i}", "Action Drama") for i in range(ITEMS)),
            ],
            "\t",
        ),
    }


def events():
    def kind(place, user, item, time):
        return ("view", "cart", "purchase")[place % 3]

    head = (
        "event_time",
        "event_type",
        "product_id",
        "category_code",
        "brand",
        "price",
        "user_id",
        "user_session",
    )
    rows = [
        (
            day(t, "%Y-%m-%d %H:%M:%S UTC"),
            e,
            1000 + i,
            ("appliances.kitchen", "electronics.phone")[i % 2],
            "acme",
            9.5 + i,
            500 + u,
            f"s{u}{place}",
        )
        for place, (u, i, t, e) in enumerate(log(when, kind))
    ]
    return {"2019-Oct.csv.gz": gzip.compress(lines([head, *rows]))}
