"""What `llmrec init` should find in each folder: the entries of the card, and counts that differ from the log's."""

from folders.contents import PAIRS

NAMED = {"user": "user", "item": "item", "time": "time"}
CASES = {
    "messy_shop": (
        {
            "interactions": {
                "path": "bestellungen.csv",
                "separator": ";",
                "columns": {"user": "kunden_id", "item": "artikel_id", "time": "bestellt_am"},
                "times": None,
                "without_id": None,
            },
            "items": {
                "path": "artikel.csv",
                "separator": ";",
                "encoding": "cp1252",
                "columns": {
                    "item": "artikel_id",
                    "title": "name",
                    "categories": "kategorie",
                    "price": "preis",
                    "description": "beschreibung",
                },
                "split_on": {"categories": ">"},
                "decimal": ",",
            },
            "users": None,
        },
        {"users": 400, "items": 152, "interactions": sum(3 + user % 9 for user in range(400))},
    ),
    "movielens_1m": (
        {
            "interactions": {
                "path": "ml-1m/ratings.dat",
                "format": "csv",
                "separator": "::",
                "header": ["user", "item", "rating", "time"],
                "columns": NAMED | {"rating": "rating"},
            },
            "items": {
                "path": "ml-1m/movies.dat",
                "separator": "::",
                "encoding": "cp1252",
                "header": ["item", "title", "categories"],
                "columns": {"item": "item", "title": "title", "categories": "categories"},
                "split_on": {"categories": "|"},
            },
        },
        {},
    ),
    "movielens_csv": (
        {
            "interactions": {
                "path": "ratings.csv",
                "separator": None,
                "columns": {"user": "userId", "item": "movieId", "time": "timestamp", "rating": "rating"},
            },
            "items": {
                "path": "movies.csv",
                "columns": {"item": "movieId", "title": "title", "categories": "genres"},
                "split_on": {"categories": "|"},
            },
        },
        {},
    ),
    "movielens_100k": (
        {
            "interactions": {
                "path": "u.data",
                "separator": "\t",
                "header": ["user", "item", "rating", "time"],
            },
            "items": {"path": "u.item", "separator": "|", "columns": {"item": "item", "title": "title"}},
        },
        {},
    ),
    "amazon_2023": (
        {
            "interactions": {
                "path": "All_Beauty.jsonl.gz",
                "columns": {
                    "user": "user_id",
                    "item": "parent_asin",
                    "time": "timestamp",
                    "rating": "rating",
                },
            },
            "items": {
                "path": "meta_All_Beauty.jsonl.gz",
                "columns": {
                    "item": "parent_asin",
                    "title": "title",
                    "categories": "categories",
                    "brand": "store",
                    "price": "price",
                    "description": "description",
                },
                "split_on": None,
            },
        },
        {},
    ),
    "amazon_2014": (
        {
            "interactions": {
                "path": "reviews_Beauty_5.json.gz",
                "format": None,
                "columns": {
                    "user": "reviewerID",
                    "item": "asin",
                    "time": "unixReviewTime",
                    "rating": "overall",
                },
            },
            "items": {
                "path": "meta_Beauty.json.gz",
                "format": "loose_jsonl",
                "columns": {"item": "asin", "title": "title", "categories": "categories", "brand": "brand"},
            },
        },
        {},
    ),
    "steam": (
        {
            "interactions": {
                "path": "steam_reviews.json.gz",
                "format": "loose_jsonl",
                "columns": {"user": "username", "item": "product_id", "time": "date"},
            },
            "items": {
                "path": "steam_games.json.gz",
                "columns": {"item": "id", "categories": "genres", "price": "price"},
            },
        },
        {},
    ),
    "steam_libraries": (
        {"interactions": {"format": "loose_jsonl", "columns": {"user": "user_id", "item": "items.item_id"}}},
        {},
    ),
    "yelp": (
        {
            "interactions": {
                "path": "yelp_academic_dataset_review.json",
                "columns": {"user": "user_id", "item": "business_id", "time": "date", "rating": "stars"},
            },
            "items": {
                "path": "yelp_academic_dataset_business.json",
                "columns": {"item": "business_id", "title": "name", "categories": "categories"},
                "split_on": {"categories": ","},
            },
            "users": {"columns": {"user": "user_id", "fans": "fans"}},
        },
        {},
    ),
    "no_times": (
        {
            "interactions": {"path": "purchases.csv", "columns": {"user": "customer", "item": "product"}},
            "items": {
                "path": "products.jsonl",
                "columns": {"item": "sku", "title": "name", "categories": "path"},
                "split_on": {"categories": ">"},
            },
        },
        {},
    ),
    "pairs_only": (
        {"interactions": {"path": "data.txt", "separator": " ", "header": ["user", "item"]}, "items": None},
        {},
    ),
    "header_less": (
        {"interactions": {"path": "events.csv", "header": ["user", "item", "time"], "columns": NAMED}},
        {},
    ),
    "two_logs": (
        {
            "interactions": {
                "path": "purchases.csv",
                "columns": {"user": "customer_id", "item": "product_id", "time": "bought_at"},
            }
        },
        {},
    ),
    "typed_parquet": (
        {
            "interactions": {
                "path": "transactions_train.parquet",
                "columns": {"user": "account_id", "item": "article_id", "time": "t_dat"},
            },
            "items": {
                "path": "articles.parquet",
                "columns": {"item": "article_id", "title": "prod_name", "categories": "department_name"},
            },
        },
        {},
    ),
    "parquet_lists": (
        {"interactions": {"path": "histories.parquet", "columns": {"user": "user_id", "item": "item_ids"}}},
        {},
    ),
    "parts": ({"interactions": {"path": "orders-*.csv", "columns": NAMED}}, {}),
    "retail": (
        {
            "interactions": {
                "path": "online_retail.csv",
                "columns": {"user": "CustomerID", "item": "StockCode", "time": "InvoiceDate"},
                "without_id": "drop",
            },
            "items": {
                "path": "online_retail.csv",
                "columns": {"item": "StockCode", "title": "Description"},
            },
        },
        {"interactions": sum(place % 9 != 4 for place in range(len(PAIRS)))},
    ),
    "excel": (
        {
            "interactions": {
                "separator": "\t",
                "columns": {"user": "Kundennr", "item": "Artikelnr", "time": ["Datum", "Uhrzeit"]},
            },
            "items": {"columns": {"item": "Artikelnr", "title": "Artikelbezeichnung"}},
        },
        {},
    ),
    "doubtful_days": (
        {
            "interactions": {
                "columns": {"user": "client", "item": "produit", "time": "date"},
                "time_format": "%d/%m/%Y",
            }
        },
        {},
    ),
    "sequences": (
        {
            "interactions": {
                "path": "Beauty.txt",
                "format": "sequences",
                "columns": {"user": "user", "item": "item"},
            }
        },
        {},
    ),
    "recbole": (
        {
            "interactions": {
                "path": "ml.inter",
                "format": "csv",
                "separator": "\t",
                "columns": {
                    "user": "user_id:token",
                    "item": "item_id:token",
                    "time": "timestamp:float",
                    "rating": "rating:float",
                },
            },
            "items": {"path": "ml.item", "columns": {"title": "movie_title:token_seq"}},
        },
        {},
    ),
    "baskets": (
        {"interactions": {"columns": {"user": "customer_id", "item": "items"}, "split_on": {"item": " "}}},
        {},
    ),
    "events": (
        {
            "interactions": {
                "path": "2019-Oct.csv.gz",
                "columns": {
                    "user": "user_id",
                    "item": "product_id",
                    "time": "event_time",
                    "event": "event_type",
                },
            }
        },
        {},
    ),
    "json_array": (
        {
            "interactions": {
                "path": "orders.json",
                "columns": {"user": "userId", "item": "productId", "time": "createdAt"},
            },
            "items": {"path": "products.json", "columns": {"item": "key", "title": "name"}},
        },
        {},
    ),
    "order_lines": (
        {
            "interactions": {
                "path": "order_lines.csv",
                "join": {"path": "orders.csv", "separator": ";", "by": {"order_id": "id"}},
                "columns": {"user": "customer_id", "item": "product_id", "time": "joined.created_at"},
            },
            "items": {"path": "products.csv", "columns": {"item": "product_id", "title": "title"}},
            "users": None,
        },
        {},
    ),
    "other_zeros": ({"interactions": {"columns": {"user": "user", "item": "sku"}}, "items": None}, {}),
}
