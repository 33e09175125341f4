"""The SQL functions alone. (to come)"""
SECTIONS: dict = {}
