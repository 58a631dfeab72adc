"""Which drawings of the `arcade` wheel are used, under which class name: a table, no code.

The art is Kenney's (www.kenney.nl, CC0), except the car, which is Luis Zuno's (ansimuz; free to use, change and
redistribute). Left out: ground tiles, lava, water, bricks and bridges, tracks, barrels and outlines, backgrounds,
sprite sheets, corner pieces and test files, a coin seen edge-on, lowered flags, lasers, the smallest meteors, icons.
"""

VERSION = "3.3.3"
SHA256 = "25f4e0e5b8bcbe7a7d087c0a23b19e9f423b0c70ec00945c8712c9a3e541ebd2"
ROOT = "arcade/resources/assets/images"
LICENCES = ("License.txt", "miami_synth_parallax/public-license.txt")

FAR = "far unknown"

# super-category -> class -> folder and names, or names with their folder. `{a,b}` stands for a and for b.
_POSES = "{climb0,climb1,fall,idle,jump,walk0,walk1,walk2,walk3,walk4,walk5,walk6,walk7}"
TABLE: dict[str, dict[str, tuple[str, ...]]] = {
    "beings": {
        "femaleAdventurer": (f"animated_characters/female_adventurer/femaleAdventurer_{_POSES}",),
        "femalePerson": (f"animated_characters/female_person/femalePerson_{_POSES}",),
        "maleAdventurer": (f"animated_characters/male_adventurer/maleAdventurer_{_POSES}",),
        "malePerson": (f"animated_characters/male_person/malePerson_{_POSES}",),
        "robot": (f"animated_characters/robot/robot_{_POSES}",),
        "zombie": (f"animated_characters/zombie/zombie_{_POSES}",),
        "alien": ("alien/alienBlue_{climb1,climb2,fall,front,jump,walk1,walk2}",),
    },
    "critters": {
        "slime": ("enemies/slime{Blue,Blue_move,Green,Purple}",),
        "worm": ("enemies/worm{Green,Green_dead,Green_move,Pink}",),
        "fish": ("enemies/fish{Green,Pink}",),
        "frog": ("enemies/{frog,frog_move}",),
        "bee": ("enemies/bee",),
        "fly": ("enemies/fly",),
        "ladybug": ("enemies/ladybug",),
        "mouse": ("enemies/mouse",),
    },
    "items": {
        "coin": ("items/coin{Bronze,Gold,Silver}", "items/gold_{1,2,3}"),
        "flag": ("items/flag{Green1,Green2,Red1,Red2,Yellow1,Yellow2}",),
        "gem": ("items/gem{Blue,Green,Red,Yellow}",),
        "key": ("items/key{Blue,Green,Red,Yellow}",),
        "switch": ("tiles/switch{Green,Green_pressed,Red,Red_pressed}",),
        "lever": ("tiles/lever{Left,Mid,Right}",),
        "sign": ("tiles/sign{Exit,Left,Right}",),
        "torch": ("tiles/torch{1,2,Off}",),
        "lock": ("tiles/lock{Red,Yellow}",),
        "star": ("items/star",),
    },
    "vehicles, space and cards": {
        "tank": (
            "topdown_tanks/tank_{blue,dark,green,red,sand}",
            "topdown_tanks/tankBody_{bigRed,blue,dark,darkLarge,green,huge,red,sand}",
        ),
        "ship": ("space_shooter/playerShip1_{blue,green,orange}", "space_shooter/playerShip{2,3}_orange"),
        "meteor": ("space_shooter/meteorGrey_{big1,big2,big3,big4,med1,med2}",),
        "car": ("miami_synth_parallax/car/car-{idle,running0,running1,running2,running3}",),
        "card": (
            "cards/cardClubs{2,3,4,5,6,7,8,9,10,J,Q,K,A}",
            "cards/cardDiamonds{2,3,4,5,6,7,8,9,10,J,Q,K,A}",
            "cards/cardHearts{2,3,4,5,6,7,8,9,10,J,Q,K,A}",
            "cards/cardSpades{2,3,4,5,6,7,8,9,10,J,Q,K,A}",
            "cards/cardJoker",
        ),
        "cardback": ("cards/cardBack_{blue,green,red}{1,2,3,4,5}",),
        "tree": ("topdown_tanks/tree{Brown,Green}_{large,small}",),
    },
    FAR: {
        "bush": ("tiles/bush",),
        "cactus": ("tiles/cactus",),
        "mushroom": ("tiles/mushroomRed",),
        "plantPurple": ("tiles/plantPurple",),
        "sprout": ("tiles/grass_sprout",),
        "bomb": ("tiles/bomb",),
        "door": ("tiles/doorClosed_mid",),
        "rock": ("tiles/rock",),
        "spikes": ("tiles/spikes",),
        "bumper": ("pinball/bumper",),
        "ball": ("pinball/pool_cue_ball",),
        "slimeBlock": ("enemies/slimeBlock",),
        "crate": ("tiles/boxCrate{,_double,_single}",),
        "saw": ("enemies/{saw,sawHalf}",),
        "ladder": ("items/ladder{Mid,Top}",),
    },
}
