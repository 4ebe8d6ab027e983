"""Tests of the world and of the judge: run with `python -m unittest` in this folder (needs the sprites, not a checkpoint)."""
import random
import unittest
from dataclasses import replace

import numpy as np
from scipy import ndimage

import judge
import world


def rendered(scene: world.Scene) -> np.ndarray:
    return world.render(scene)[0]


class TheWorld(unittest.TestCase):
    def setUp(self):
        rng = random.Random("attnmap world test")
        self.scenes = [world.random_scene(rng) for _ in range(2000)]
        self.rng = rng

    def test_things_lie_on_the_stride_inside_and_apart(self):
        for s in self.scenes:
            for i, o in enumerate(s.objects):
                self.assertEqual((o.x % world.STRIDE, o.y % world.STRIDE), (0, 0))
                self.assertTrue(0 <= o.x <= world.SIZE - o.side and 0 <= o.y <= world.SIZE - o.side, s)
                for p in s.objects[:i]:
                    apart = o.x + o.side <= p.x or p.x + p.side <= o.x or o.y + o.side <= p.y or p.y + p.side <= o.y
                    self.assertTrue(apart, s)

    def test_wording_does_not_decide_what_is_held_out(self):
        for s in self.scenes:
            if len(s.objects) == 2:
                turned = replace(s, objects=s.objects[::-1], relation=world.OPPOSITE[s.relation])
                self.assertEqual(world.held_out(s), world.held_out(turned), s)

    def test_captions_use_the_vocabulary_and_name_every_thing(self):
        for s in self.scenes:
            words = world.caption_words(s, self.rng, exact=True)
            self.assertLessEqual({w for w, _ in words}, set(world.VOCABULARY))
            self.assertLessEqual(len(words), 30)  # and a start and an end token
            for i, o in enumerate(s.objects):
                named = {w for w, k in words if k == i}
                alike = len(s.objects) > 1 and s.objects[0].noun == s.objects[1].noun
                if not alike:
                    self.assertEqual(named, {w for w in (o.size, o.colour, o.noun) if w})

    def test_prompts_are_held_out_and_have_the_asked_number_of_things(self):
        cases = world.prompts(40, 1)
        self.assertEqual([sum(len(s.objects) == n for _, s in cases) for n in (1, 2, 3)], [10, 20, 10])
        self.assertTrue(all(world.held_out(s) for _, s in cases))


class OnRenderedScenes(unittest.TestCase):
    def setUp(self):
        rng = random.Random("attnmap judge test")
        self.scenes = [world.random_scene(rng) for _ in range(60)]
        self.one = [s for s in self.scenes if len(s.objects) == 1]
        self.several = [s for s in self.scenes if len(s.objects) > 1]
        self.mixed = [s for s in self.several if len({o.noun for o in s.objects}) == len(s.objects)]

    def test_finds_everything_in_rendered_scenes(self):
        for s in self.scenes:
            self.assertTrue(judge.judge(rendered(s), s).right, s)

    def test_still_does_when_blurred_and_noisy(self):
        noise = np.random.default_rng(0)
        for s in self.scenes:
            image = ndimage.gaussian_filter(rendered(s), (1, 1, 0)) + noise.normal(0, 0.03, (128, 128, 3))
            self.assertTrue(judge.judge(np.clip(image, 0, 1), s).right, s)

    def test_an_extra_thing_is_an_error(self):
        for s in self.several:
            fewer = replace(s, objects=s.objects[:-1], relation=None)
            self.assertFalse(judge.judge(rendered(s), fewer).things, s)

    def test_a_missing_thing_is_an_error(self):
        for s in self.several:
            verdict = judge.judge(rendered(replace(s, objects=s.objects[:-1])), s)
            self.assertFalse(verdict.things or verdict.relation, s)

    def test_another_thing_in_place_of_one_is_an_error(self):
        rng = random.Random(1)
        for s in self.mixed:
            noun = rng.choice([n for n in world.NOUNS if n not in {o.noun for o in s.objects}])
            other = replace(s.objects[0], noun=noun, colour=world.NOUNS[noun][0])
            drawn = rendered(replace(s, objects=(other, *s.objects[1:])))
            self.assertFalse(judge.judge(drawn, s).things, (s, noun))

    def test_a_doubled_thing_is_an_error(self):
        for s in self.one:
            o = s.objects[0]
            for dx, dy in ((24, 0), (0, 24), (16, 16)):
                at = lambda sign: replace(o, x=48 - o.side // 2 + 16 + sign * dx // 2, y=48 - o.side // 2 + 16 + sign * dy // 2)
                self.assertFalse(judge.judge(rendered(replace(s, objects=(at(-1), at(1)))), s).things, (s, dx, dy))

    def test_another_colour_is_an_error_of_colour_alone(self):
        rng = random.Random(2)
        for s in self.scenes:
            for i, o in enumerate(s.objects):
                if o.colour and len({p.noun for p in s.objects}) == len(s.objects):
                    wrong = replace(o, colour=rng.choice([c for c in world.COLOURS if c != o.colour]))
                    verdict = judge.judge(rendered(replace(s, objects=(*s.objects[:i], wrong, *s.objects[i + 1 :]))), s)
                    self.assertEqual((verdict.things, verdict.colours), (True, False), (s, wrong))

    def test_colours_on_each_others_thing_are_an_error(self):
        for s in self.mixed:
            a, b = s.objects[:2]
            if a.colour and b.colour and a.colour != b.colour:
                swapped = (replace(a, colour=b.colour), replace(b, colour=a.colour), *s.objects[2:])
                self.assertIs(judge.judge(rendered(replace(s, objects=swapped)), s).colours, False, s)

    def test_another_size_is_an_error_of_size_alone(self):
        for s in self.one:
            o = s.objects[0]
            for size in world.SIZES:
                verdict = judge.judge(rendered(replace(s, objects=(replace(o, size=size, x=24, y=24),))), s)
                self.assertTrue(verdict.things, s)
                self.assertEqual(verdict.sizes, None if o.size is None else size == o.size, (s, size))

    def test_every_wrong_relation_is_an_error(self):
        for s in self.mixed:
            asked = world.RELATIONS if len(s.objects) == 2 else ("above", "below")
            for relation in asked:
                row = relation == "beside" and s.relation in ("left", "right")
                right = relation == s.relation or row
                if s.relation != "beside":
                    self.assertEqual(judge.judge(rendered(s), replace(s, relation=relation)).relation, right, (s, relation))
                elif relation in ("above", "below"):
                    self.assertFalse(judge.judge(rendered(s), replace(s, relation=relation)).relation, (s, relation))

    def test_a_shape_that_is_no_thing_is_an_error(self):
        y, x = np.mgrid[0:128, 0:128]
        for s in self.one:
            if s.objects[0].size != "big":
                image = rendered(s)
                image[(y - 112) ** 2 + (x - 112) ** 2 < 14**2] = (0.55, 0.1, 0.55)
                o = s.objects[0]
                if o.x + o.side <= 96 or o.y + o.side <= 96:
                    self.assertFalse(judge.judge(image, s).things, s)

    def test_half_a_thing_is_an_error(self):
        for s in self.one:
            o = s.objects[0]
            image = rendered(s)
            alpha = world.sprite(o.noun, o.colour, o.size)[..., 3]
            half = o.side // 2  # the one with more of the thing in it: the lower half of an umbrella is a stick
            start = o.y + (half if alpha[half:].sum() > alpha[:half].sum() else 0)
            image[start : start + half, o.x : o.x + o.side] = world.background(s.place)[start : start + half, o.x : o.x + o.side]
            self.assertFalse(judge.judge(image, s).things, s)

    def test_the_place_counts(self):
        for s in self.scenes[:20]:
            for place in world.PLACES:
                self.assertEqual(judge.judge(rendered(s), replace(s, place=place)).place, place == s.place)


if __name__ == "__main__":
    unittest.main()
