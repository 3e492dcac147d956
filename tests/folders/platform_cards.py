"""What `llmrec init` should find in the folders of `folders.platforms`: entries of the card, and other counts."""

SOLD = {"user": "Kundennr", "item": "Artikelnr", "time": "Datum"}
PLAIN = {"user": "user", "item": "item", "time": "time"}
SALES = {"user": "customer", "item": "sku", "time": "date"}
PLATFORMS = {
    "shopify": (
        {
            "interactions": {
                "columns": {"user": "Email", "item": "Lineitem sku", "time": "Created at"},
                "times": None,
            },
            "items": {
                "columns": {"item": "Lineitem sku", "title": "Lineitem name", "price": "Lineitem price"}
            },
        },
        {},
    ),
    "magento": (
        {
            "interactions": {
                "path": "sales_order_item.csv",
                "join": {"path": "sales_order.csv", "by": {"order_id": "entity_id"}},
                "columns": {"user": "customer_id", "item": "product_id", "time": "created_at"},
            }
        },
        {},
    ),
    "instacart": (
        {
            "interactions": {
                "path": "order_products__prior.csv",
                "join": {"path": "orders.csv", "by": "order_id"},
                "columns": {"user": "user_id", "item": "product_id", "time": "order_number"},
            },
            "items": {"columns": {"item": "product_id", "title": "product_name"}},
        },
        {},
    ),
    "fashion": (
        {
            "interactions": {
                "columns": {"user": "customer_id", "item": "article_id", "time": "t_dat"},
            },
            "items": {"path": "articles.csv", "columns": {"item": "article_id", "title": "prod_name"}},
        },
        {},
    ),
    "streams": (
        {
            "interactions": {"columns": {"user": "username", "item": "spotify_track_uri", "time": "ts"}},
            "items": {
                "columns": {
                    "item": "spotify_track_uri",
                    "title": "master_metadata_track_name",
                    "brand": "master_metadata_album_artist_name",
                    "price": None,
                    "categories": None,
                }
            },
        },
        {},
    ),
    "sessions": (
        {"interactions": {"columns": {"user": "session_id", "item": "item_id", "time": "timestamp"}}},
        {},
    ),
    "visits": (
        {"interactions": {"columns": {"user": "visitorId", "item": "productSku", "time": "serverDate"}}},
        {},
    ),
    "books": (
        {
            "interactions": {"path": "Ratings.csv", "columns": {"user": "User-ID", "item": "ISBN"}},
            "items": {"columns": {"title": "Book-Title", "brand": "Book-Author", "categories": None}},
        },
        {},
    ),
    "spark": (
        {"interactions": {"columns": {"user": "user_id", "item": "item_id", "time": "ts"}}},
        {},
    ),
    "report": (
        {"interactions": {"separator": ";", "skip": 3, "header": None, "columns": SOLD}},
        {},
    ),
    "comments": (
        {
            "interactions": {
                "skip": 5,
                "columns": {"user": "Client ID", "item": "Product SKU", "time": "Date"},
            },
            "items": {"skip": 5, "columns": {"item": "Product SKU", "title": "Product"}},
        },
        {},
    ),
    "marked_separator": ({"interactions": {"separator": ";", "skip": 1, "columns": SOLD}}, {}),
    "open_lines": (
        {
            "interactions": {
                "skip": 1,
                "header": ["user", "item", "time", "column_4"],
                "columns": PLAIN,
            }
        },
        {},
    ),
    "row_names": (
        {"interactions": {"skip": 1, "header": ["row", "user", "item", "time"], "columns": PLAIN}},
        {},
    ),
    "months": ({"interactions": {"path": "*/sales_*.csv", "columns": SALES}}, {}),
    "counted_files": ({"interactions": {"path": "sales[0-9]*.csv", "columns": SALES}}, {}),
    "unmarked": ({"interactions": {"path": "log.csv", "columns": SALES}}, {}),
    "tracker": (
        {
            "interactions": {
                "columns": {
                    "user": "user_pseudo_id",
                    "item": "items.item_id",
                    "time": "event_timestamp",
                    "event": "event_name",
                }
            },
            "items": {"columns": {"item": "items.item_id", "title": "items.item_name"}},
        },
        {},
    ),
    "documents": (
        {
            "interactions": {
                "columns": {"user": "userId.$oid", "item": "productId.$oid", "time": "createdAt.$date"}
            }
        },
        {},
    ),
    "interface": (
        {
            "interactions": {
                "columns": {"user": "customer.id", "item": "line_items.sku", "time": "created_at"}
            },
            "items": {"columns": {"item": "line_items.sku", "title": "line_items.name"}},
        },
        {},
    ),
    "with_points": (
        {
            "interactions": {
                "columns": {"user": "user_id", "item": "item_id", "time": "timestamp"},
                "pattern": {"user": r"(.+?)(?:\.0)?", "item": r"(.+?)(?:\.0)?"},
            },
            "items": {"path": "items.csv", "columns": {"item": "item_id", "title": "title"}},
        },
        {},
    ),
}
